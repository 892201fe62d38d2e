"""The Python API: what the README and docs/reference/python.md promise."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from factories import Run, image_of, points

import cxrsearch as package
from cxrsearch.clinical.fields import FieldType, values_of
from cxrsearch.errors import ImageError, InputError, ModelError, ModelMismatch, UsageError
from cxrsearch.imaging.read import read

ROOT = Path(__file__).parent.parent


def test_importing_loads_nothing_and_takes_less_than_50_ms() -> None:
    code = """
import sys, time
before = set(sys.modules)
started = time.perf_counter()
import cxrsearch
seconds = time.perf_counter() - started
print(seconds, sorted(name for name in set(sys.modules) - before if name.startswith("cxrsearch.")))
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    seconds = [float(run.stdout.split(" ", 1)[0]) for run in runs]
    assert min(seconds) < 0.05
    assert all(run.stdout.split(" ", 1)[1].strip() == "[]" for run in runs)


def test_what_is_public_is_there_typed_and_nothing_else() -> None:
    names = ["Archive", "Cohort", "CxrSearchError", "Embeddings", "Encoder", "Hits", "__version__", "open"]
    assert package.__all__ == names == dir(package)
    assert all(getattr(package, name) is not None for name in names)
    stub = (ROOT / "cxrsearch/__init__.pyi").read_text("utf-8")
    assert all(f"as {name}\n" in stub or f"{name}:" in stub for name in names)
    assert all((ROOT / name / "py.typed").exists() for name in ("cxrsearch", "indexer", "trainer"))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        package.serch  # noqa: B018


def test_a_search_gives_what_the_command_gives(cxrsearch: Run, cohort: Path, index: Path) -> None:
    import json

    image = image_of(cohort)
    with package.open(index) as archive:
        hits = archive.search(str(image), where="age >= 50", k=4)
        table, vote = hits.to_pandas(), hits.vote("outcome")
    ran = cxrsearch("search", image, "--index", index, "--where", "age >= 50", "-k", 4, "--vote", "outcome", "--format",
                    "json")  # fmt: skip
    (expected,) = json.loads(ran.out)
    assert [hit.payload["path"] for hit in hits] == [hit["path"] for hit in expected["hits"]]
    assert list(table["rank"]) == [1, 2, 3, 4]
    assert table["score"].round(6).tolist() == [hit["score"] for hit in expected["hits"]]
    assert (table["age"] >= 50).all()
    assert table["age"].dtype == "Int64"
    assert [share.value for share in vote.shares] == [share["value"] for share in expected["vote"]["shares"]]
    assert {hit.payload.get("patient") for hit in hits}.isdisjoint(expected["query"]["left_out"])


def test_hits_in_a_notebook_are_pictures_and_escaped_text(cohort: Path, index: Path, tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)<.dcm"
    evil.write_bytes(image_of(cohort).read_bytes())
    with package.open(index) as archive:
        hits = archive.search(evil, k=3)
    html = hits._repr_html_()
    assert html.count('<img src="data:image/jpeg;base64,') == 4
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;" in html
    assert f"1: {hits[0].score:.4f}" in html


def test_a_cohort_and_its_embeddings_are_what_is_stored(index: Path) -> None:
    stored = points(index)
    with package.open(index) as archive:
        table = archive.cohort("finding = 'COVID-19'").to_pandas()
        everything = archive.embeddings()
        some = archive.embeddings(where="finding = 'COVID-19'")
        none = archive.embeddings(where="age > 129")
        fields = archive.fields
    covid = {id for id, point in stored.items() if "COVID-19" in values_of(point.payload, "finding")}
    assert set(table.index) == set(some.ids) == covid != set()
    assert list(some.facts.index) == list(some.ids)
    assert everything.vectors.dtype == np.float32
    for id, vector in zip(everything.ids, everything.vectors, strict=True):
        np.testing.assert_array_equal(vector, stored[id].vector)
    assert none.vectors.shape == (0, everything.vectors.shape[1])
    # The columns' types are the fields', also where there is no row.
    assert list(none.facts.columns) == list(some.facts.columns)
    assert list(none.facts.dtypes) == list(some.facts.dtypes)
    assert {"image_sha256", "picture", "_row"}.isdisjoint(table.columns)
    dates = [name for name, field in fields.items() if field.type is FieldType.DATE and not field.several]
    assert all(pandas.api.types.is_datetime64_any_dtype(table[name]) for name in dates)


def test_an_encoder_takes_files_and_arrays(cohort: Path, index: Path) -> None:
    image = image_of(cohort)
    pixels = read(image)[0].pixels
    encoder = package.Encoder("cxr-1")
    found = encoder.embed([str(image), image, pixels, np.rint(pixels * 65535).astype(np.uint16)])
    assert found.dtype == np.float32
    assert found.shape == (4, encoder.card.dimensions)
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[:1] @ found[1:].T).min() > 0.9999
    stored = next(p for p in points(index).values() if str(image).endswith(str(p.payload["path"])))
    assert float(found[0] @ stored.vector) > 0.9999
    assert encoder.embed([]).shape == (0, encoder.card.dimensions)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), "shape (3, 8, 8)"),
        (np.full((8, 8), 2.0), "0..1"),
        (np.full((8, 8), np.nan), "0..1"),
        (np.zeros((8, 8), np.int16), "unsigned"),
        (np.zeros((0, 8), np.float32), "shape (0, 8)"),
    ],
)
def test_an_array_that_is_no_radiograph_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError) as refused:
        package.Encoder().embed([array])
    assert message in str(refused.value)


def test_what_cannot_be_asked_is_a_sentence(cohort: Path, index: Path, other_model: Path, tmp_path: Path) -> None:
    with package.open(str(index)) as archive:
        with pytest.raises(UsageError, match="no such field"):
            archive.search(image_of(cohort)).vote("outcme")
        with pytest.raises(UsageError):
            archive.cohort("age >")
        with pytest.raises(UsageError, match="at least 1"):
            archive.search(image_of(cohort), k=0)
        with pytest.raises(ImageError):
            archive.search(tmp_path / "gone.dcm")
    with pytest.raises(ModelMismatch, match="cxrsearch reembed"):
        package.open(index, model=other_model)
    with pytest.raises(ModelError, match="Did you mean 'cxr-1'"):
        package.open(index, model="cxr1")
    with pytest.raises(InputError):
        package.Encoder(tmp_path)


def test_arguments_of_another_type_are_sentences_that_python_users_can_catch(
    cohort: Path, index: Path, tmp_path: Path
) -> None:
    image: Any = image_of(cohort)
    encoder: Any = package.Encoder()
    with package.open(index) as opened:
        archive: Any = opened
        assert len(archive.cohort(None)) == len(archive)
        assert len(archive.search(image, k=np.int64(3))) == 3
        wrong = {
            "image: give the path of a file, not int": lambda: archive.search(5),
            "image: give the path of a file, not list": lambda: archive.search([image]),
            "k: give a whole number from 1 on, not str": lambda: archive.search(image, k="10"),
            "k: give a whole number from 1 on, not float": lambda: archive.search(image, k=10.0),
            "k: give a whole number from 1 on, not bool": lambda: archive.search(image, k=True),
            "where: give a text, as --where takes it, or None, not int": lambda: archive.search(image, where=3),
            "where: give a text, as --where takes it, or None, not dict": lambda: archive.cohort({"age": 3}),
            "where: give a text, as --where takes it, or None, not list": lambda: archive.embeddings(["age > 3"]),
            "address: give a folder or a URL, not NoneType": lambda: package.open(None),  # type: ignore[arg-type]
            "model: give the name or the folder of a model, not int": lambda: package.Encoder(5),  # type: ignore[arg-type]
            "images: give a list of files or arrays, also of one: [image], not str": lambda: encoder.embed("a.dcm"),
            "images: give a list of files or arrays, also of one: [image], not PosixPath": lambda: encoder.embed(image),
            "images: give a list of files or arrays, also of one: [image], not ndarray": lambda: encoder.embed(
                np.zeros((9, 9))
            ),
            "images: give a list of files or arrays, also of one: [image], not NoneType": lambda: encoder.embed(None),
        }
        for sentence, use in wrong.items():
            with pytest.raises(package.CxrSearchError, match=f"^{re.escape(sentence)}$") as refused:
                use()
            assert isinstance(refused.value, TypeError)
            assert isinstance(refused.value, ValueError)
        for what in ("a\0b", "", tmp_path):
            with pytest.raises(ImageError):
                archive.search(what)
    for array in (None, 5, "gone.dcm", [[1.0], [1.0, 0.5]], np.zeros((9, 9), bool), np.zeros((9, 9), complex)):
        with pytest.raises(ImageError):
            encoder.embed([array])
    for array in (np.zeros((9, 9, 3), np.uint8), np.full((9, 9), np.nan), [[1.0], [1.0, 0.5]]):
        with pytest.raises(ValueError, match=r"^image 0: "):
            encoder.embed([array])
    assert encoder.embed(one for one in [image]).shape == encoder.embed(np.zeros((1, 99, 99))).shape


def test_a_closed_archive_says_so_and_what_was_found_stays(cohort: Path, index: Path) -> None:
    with package.open(index) as archive:
        hits = archive.search(image_of(cohort))
    for use in (archive.cohort, archive.embeddings, lambda: archive.search(image_of(cohort)), lambda: len(archive)):
        with pytest.raises(UsageError, match="the archive is closed; open it again"):
            use()
    with pytest.raises(UsageError, match="closed"):
        hits.vote("outcome")
    assert repr(archive) == "<closed archive>"
    assert "<img" in hits._repr_html_()


def test_parquet_has_the_fields_types_and_vectors_of_one_length(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    whole, none = tmp_path / "whole.parquet", tmp_path / "none.parquet"
    asked = ("cohort", "--index", index, "--embeddings")
    assert cxrsearch(*asked, "--export", whole).code == 0
    assert cxrsearch(*asked, "--export", none, "--where", "age > 129").code == 0
    table, empty = parquet.read_table(whole), parquet.read_table(none)
    assert table.schema == empty.schema
    assert (table.num_rows, empty.num_rows) == (len(points(index)), 0)
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 256)
    assert table.schema.field("age").type == pyarrow.int64()
    assert table.schema.field("finding").type == pyarrow.list_(pyarrow.string())
    stored = {str(point.payload["path"]): point.vector for point in points(index).values()}
    for row in table.select(["path", "embedding"]).to_pylist():
        np.testing.assert_array_equal(np.array(row["embedding"], np.float32), stored[row["path"]])
    for options in (["--export", tmp_path / "x.csv"], []):
        refused = cxrsearch(*asked, *options)
        assert (refused.code, ".parquet" in refused.err) == (2, True)
