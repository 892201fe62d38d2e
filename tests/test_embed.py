"""cxrsearch embed, and index --embeddings: the same index as index makes, by files that may come from anybody."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pydicom
import pytest
from factories import Ran, Run, points
from pyarrow import parquet

from cxrsearch import settings
from cxrsearch.cli.app import run
from cxrsearch.clinical.identity import load_identity
from cxrsearch.errors import CxrSearchError
from cxrsearch.imaging.isolated import Isolated
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from indexer import dataset
from indexer.embeddings_file import EmbeddingsWriter
from indexer.from_embeddings import WORK, EmbeddingsFiles
from indexer.phantoms import draw, write_cohort, write_dicom
from indexer.points import PointMaker
from indexer.readers import Task

MAPPING = """
name = "scans"
images.glob = "*.dcm"
patient.dicom = "PatientID"
study.dicom = "StudyInstanceUID"
[fields]
age = { dicom = "PatientAge", type = "integer" }
sex = { dicom = "PatientSex", type = "keyword" }
study_date = { dicom = "StudyDate", type = "date", formats = ["%Y%m%d"] }
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mapping of DICOM files whose headers have all the facts: six images, one of three frames, two bad files."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "scans.toml").write_text(MAPPING, "utf-8")
    for number in range(6):
        facts = {"patient": f"SECRET{number // 2}", "age": 40 + number, "day": datetime.date(2020, 3, 1 + number)}
        write_dicom(folder / f"SECRET{number}.dcm", draw("Pneumonia", number, size=96), facts=facts)
    several = pydicom.dcmread(folder / "SECRET3.dcm")
    pixels = several.PixelData
    several.NumberOfFrames = 3
    several.PixelData = pixels + pixels[::-1] + pixels[2:] + pixels[:2]
    several.save_as(folder / "SECRET3.dcm")
    (folder / "SECRET7.dcm").write_bytes((folder / "SECRET0.dcm").read_bytes()[:3000])
    (folder / "SECRET8.dcm").write_bytes(b"")
    return folder / "scans.toml"


@pytest.fixture(scope="module")
def parts(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two files of embeddings of these."""
    folder = tmp_path_factory.mktemp("parts")
    for part, code in ((1, 0), (2, 3)):
        to = folder / f"part-{part}.parquet"
        assert run(["embed", str(scans), "--part", f"{part}/2", "--to", str(to), "--workers", "1"]) == code
    return folder


def thumbnails(index: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (index / "thumbnails").rglob("*.jpg")}


def assert_same(one: Path, other: Path) -> None:
    """Ids, payloads, thumbnails and every bit of the vectors."""
    first, second = points(one), points(other)
    assert {id: (p.payload, p.vector.tobytes()) for id, p in first.items()} == {
        id: (p.payload, p.vector.tobytes()) for id, p in second.items()
    }
    assert thumbnails(one) == thumbnails(other)
    assert (one / "rejected.jsonl").read_bytes() == (other / "rejected.jsonl").read_bytes()


def test_files_of_embeddings_give_the_index_that_reading_the_images_gives(
    cxrsearch: Run, scans: Path, parts: Path, tmp_path: Path
) -> None:
    assert cxrsearch("index", scans, "--index", tmp_path / "read", "--workers", "1").code == 3
    ran = cxrsearch("index", scans, "--index", tmp_path / "stored", "--embeddings", parts / "part-*.parquet")
    assert ran.code == 3
    assert ran.out.startswith("8 indexed, 0 updated, 0 unchanged, 2 rejected")
    assert_same(tmp_path / "read", tmp_path / "stored")
    payloads = [point.payload for point in points(tmp_path / "stored").values()]
    assert {payload["frame"] for payload in payloads if "frame" in payload} == {1, 2, 3}
    assert all({"patient", "study", "study_date", "age"} <= payload.keys() for payload in payloads)
    for more in ([], ["--embeddings", parts / "part-1.parquet", "--embeddings", parts / "part-2.parquet"]):
        again = cxrsearch("index", scans, "--index", tmp_path / "stored", *more)
        assert again.out.startswith("0 indexed, 0 updated, 6 unchanged, 2 rejected")


def test_facts_of_a_table_are_those_of_the_day_they_are_stored_and_no_image_is_needed(
    cxrsearch: Run, tmp_path: Path
) -> None:
    toml = write_cohort(tmp_path / "set", patients=4, size=96)
    assert cxrsearch("embed", toml, "--to", tmp_path / "all.parquet", "--workers", "1").code == 0
    assert cxrsearch("index", toml, "--index", tmp_path / "read", "--workers", "1").code == 0
    shutil.copytree(tmp_path / "set", tmp_path / "away")
    for image in toml.parent.rglob("*.dcm"):
        image.write_bytes(b"")
    stored = ["index", toml, "--index", tmp_path / "stored", "--embeddings", tmp_path / "all.parquet"]
    assert cxrsearch(*stored).code == 0
    assert_same(tmp_path / "read", tmp_path / "stored")
    table = toml.parent / "clinical.csv"
    table.write_text(table.read_text("utf-8").replace(",North,", ",Northwest,"), "utf-8")
    updated = cxrsearch(*stored)
    assert updated.code == 0
    shutil.copy(table, tmp_path / "away" / "clinical.csv")
    plain = cxrsearch("index", toml, "--root", tmp_path / "away", "--index", tmp_path / "read", "--name", "phantoms")
    assert plain.out.split(" rejected")[0] == updated.out.split(" rejected")[0]
    assert {p.payload["site"] for p in points(tmp_path / "stored").values()} == {"Northwest", "South"}
    assert_same(tmp_path / "read", tmp_path / "stored")


def test_a_file_of_embeddings_names_no_patient_and_is_its_owners_alone(parts: Path) -> None:
    for path in parts.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        table = parquet.read_table(path)
        shown = table.drop_columns(["embedding", "thumbnail", "id"]).to_pylist()
        assert "SECRET" not in (text := repr(shown) + repr(table.schema.metadata))
        assert "2020-03" not in text  # dates are shifted
        assert b"SECRET" not in path.read_bytes()


def test_missing_parts_are_said_and_come_later_and_forgotten_patients_do_not(
    cxrsearch: Run, scans: Path, parts: Path, tmp_path: Path
) -> None:
    one = cxrsearch("index", scans, "--index", tmp_path / "index", "--embeddings", parts / "part-1.parquet")
    assert one.code == 3
    assert "parts 2 of 2 are not among the files" in one.err
    assert "4 images are in none of the files and were left out, SECRET4.dcm among them" in one.err
    two = cxrsearch("index", scans, "--index", tmp_path / "index", "--embeddings", parts / "part-2.parquet")
    assert two.out.startswith("2 indexed, 0 updated, 4 unchanged, 2 rejected")
    assert "in none of the files" not in two.err
    assert cxrsearch("forget", "SECRET0", "--index", tmp_path / "index").code == 0
    both = ["index", scans, "--index", tmp_path / "index", "--embeddings", parts / "part-*.parquet"]
    assert "2 files of forgotten patients were left out" in cxrsearch(*both).out
    assert len(points(tmp_path / "index")) == 6
    assert cxrsearch(*both, "--again").out.startswith("2 indexed")


def test_an_interrupted_embed_leaves_no_file_and_begins_anew(
    cxrsearch: Run, scans: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "part.parquet"
    command = ["embed", scans, "--to", to, "--part", "1/4", "--workers", "1"]

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingsWriter, "end", stop)
        assert cxrsearch(*command).code == 130
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "part.parquet.new").write_bytes(b"of a process that was killed")
    assert cxrsearch(*command).out.startswith(f"2 embedded into {to} (part 1 of 4), 0 rejected")
    assert [path.name for path in tmp_path.iterdir()] == ["part.parquet"]
    ran = cxrsearch(*command)
    assert (ran.code, "is there already, and whole" in ran.err) == (2, True)


def test_embed_ends_where_the_mapping_is_probably_wrong(cxrsearch: Run, tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / f"{number}.dcm").write_bytes(b"nothing")
    ran = cxrsearch("embed", tmp_path, "--to", tmp_path / "x.parquet", "--workers", "1")
    assert ran.code == 4
    assert "of the first 100 files were rejected" in ran.err
    assert not (tmp_path / "x.parquet").exists()


# ------------------------------------------------------------------ what cannot be used

Rows = list[dict[str, Any]]


def changed(path: Path, to: Path, change: Callable[[Rows], None], **metadata: object) -> Path:
    """A file of embeddings with other rows or another provenance."""
    table = parquet.read_table(path)
    rows, said = table.to_pylist(), json.loads(table.schema.metadata[b"cxrsearch"])
    change(rows)
    types = table.schema.with_metadata({"cxrsearch": json.dumps({**said, **metadata})})
    parquet.write_table(pyarrow.Table.from_pylist(rows, types), to)
    return to


def with_fact(name: str, value: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[1]["facts"] = json.dumps({**json.loads(rows[1]["facts"]), name: value})

    return change


def with_cell(name: str, value: object, row: int = 1) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[row][name] = value

    return change


def scaled(factor: float) -> Callable[[Rows], None]:
    return lambda rows: with_cell("embedding", (np.array(rows[1]["embedding"]) * factor).tolist())(rows)


ROWS = {
    "a vector that is too long": (scaled(2), "row 2 has an embedding of length 2, not 1"),
    "a vector of NaN": (scaled(np.nan), "row 2 has an embedding of length nan"),
    "a vector without end": (scaled(np.inf), "row 2 has an embedding of length"),
    "no vector": (with_cell("embedding", None), "row 2 has an embedding of length 0, not 1"),
    "a row twice": (lambda rows: rows.append(rows[0]), "row 7 has the image of row 1 of"),
    "a frame out of order": (with_cell("frame", 3), "row 2 has frame 3 where another was due"),
    "a negative frame": (with_cell("frame", -1), "row 2 has frame -1 where another was due"),
    "no facts": (with_cell("facts", None), "row 2 has no facts of an image"),
    "facts that are none": (with_cell("facts", "[" * 100_000), "row 2 has no facts of an image"),
    "facts of another field": (with_fact("name", "Smith"), "row 2 has a fact 'name' that is none of a header"),
    "a wrong type": (with_fact("width", "wide"), "row 2 has a wrong width: a text, not an integer"),
    "a list where one is due": (with_fact("sex", ["M", "F"]), "row 2 has a value of sex that is none"),
    "a day that is none": (with_fact("study_date", "2020-02-31"), "row 2 has a value of study_date that is none"),
    "a number too large": (with_fact("age", 10**400), "row 2 has a"),
    "half a character": (with_fact("sex", "\ud800"), "row 2 has a value of sex that is none"),
    "a patient's own number": (with_fact("patient", "SECRET1"), "row 2 has what is no pseudonym or digest of ours"),
    "an integer beyond all": (with_fact("height", 2**62), "row 2 has a wrong height: an integer beyond 2^53"),
    "a size below one": (with_fact("width", -5), "row 2 has a wrong width: below 1"),
    "a size of no image": (with_fact("width", 2**40), "pixels, above the limit of 64 million"),
    "a projection that is none": (with_fact("projection", "upside down"), "neither frontal nor lateral"),
    "an escape": (with_fact("sex", "\x1b[2JM"), "row 2 has a text of sex that has what is taken out of every text"),
    "a mark of direction": (with_fact("sex", "M\u202e"), "row 2 has a text of sex that has what is taken out"),
    "an age above 90": (with_fact("age", 104), "row 2 has an age in age that had to be made 90"),
    "a thumbnail that is none": (with_cell("thumbnail", b"GIF89a"), "row 2 has a thumbnail that is none"),
    "a reason that is none": (with_cell("frame", 0), "row 2 has rejected, and no reason that there is"),
}


def unchanged(_: Rows) -> None:
    pass


PROVENANCE = {
    "another dataset": ({"dataset": "other"}, 4, "of the dataset other, not of scans; see --name"),
    "another model": ({"fingerprint": "f" * 64}, 6, "by model cxr-1 (ffffffffffff), not by cxr-1"),
    "another key": ({"key": "X"}, 4, "another key of pseudonyms, so that none of its images is known here"),
    "another mapping": ({"reading": "X"}, 4, "the mapping's DICOM fields or [privacy] are others"),
    "a dimension that it has not": ({"dimensions": 3}, 4, "vectors of another length than it says"),
    "a dimension that is none": ({"dimensions": "3"}, 4, "vectors of another length than it says"),
    "a format to come": ({"format": 99}, 4, "of format 99; this version reads 1"),
    "no part": ({"part": None}, 4, "does not say what it is of"),
    "a part beyond the last": ({"part": [3, 2]}, 4, "does not say what it is of"),
    "a part before the first": ({"part": [0, 2]}, 4, "does not say what it is of"),
    "more parts than --part takes": ({"part": [1, 2_000_000]}, 4, "does not say what it is of"),
}


READER = Isolated(WORK)  # one for all cases, as its start takes half a second


def refused(path: Path, scans: Path) -> CxrSearchError:
    data, identity = dataset.load(str(scans)), load_identity(settings.key_file())
    assert identity is not None
    maker = PointMaker(data, identity)
    tasks = (Task(record, maker.label(record), "", None) for record in data.records())
    with pytest.raises(CxrSearchError) as refusal:
        list(EmbeddingsFiles([str(path)], data, identity, read_card(DEFAULT_MODEL), READER).read(tasks))
    assert str(path) in str(refusal.value)
    return refusal.value


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_cannot_be_is_refused_with_its_file_and_number(
    case: str, scans: Path, parts: Path, tmp_path: Path
) -> None:
    change, message = ROWS[case]
    refusal = refused(changed(parts / "part-1.parquet", tmp_path / "bad.parquet", change), scans)
    assert message in str(refusal)
    assert refusal.exit_code == 4


@pytest.mark.parametrize("case", PROVENANCE)
def test_a_file_of_something_else_is_refused(case: str, scans: Path, parts: Path, tmp_path: Path) -> None:
    metadata, code, message = PROVENANCE[case]
    refusal = refused(changed(parts / "part-1.parquet", tmp_path / "bad.parquet", unchanged, **metadata), scans)
    assert message in str(refusal)
    assert refusal.exit_code == code


def test_a_thumbnail_that_the_dataset_does_not_want_is_not_stored(
    cxrsearch: Run, scans: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(scans.parent, tmp_path / "set")
    toml = tmp_path / "set" / "scans.toml"
    toml.write_text(MAPPING + "[privacy]\nthumbnails = false\n", "utf-8")
    cxrsearch("embed", toml, "--to", tmp_path / "plain.parquet", "--workers", "1")
    (picture,) = parquet.read_table(parts / "part-1.parquet")["thumbnail"].to_pylist()[:1]
    assert picture is not None
    put_in = changed(tmp_path / "plain.parquet", tmp_path / "put-in.parquet", with_cell("thumbnail", picture))
    assert cxrsearch("index", toml, "--index", tmp_path / "index", "--embeddings", put_in).out.startswith("8 indexed")
    assert thumbnails(tmp_path / "index") == {}


def test_missing_parts_are_named_however_many_there_are(
    cxrsearch: Run, scans: Path, parts: Path, tmp_path: Path
) -> None:
    one = changed(parts / "part-1.parquet", tmp_path / "one.parquet", unchanged, part=[2, 999_999])
    ran = cxrsearch("index", scans, "--index", tmp_path / "index", "--embeddings", one)
    assert "note: parts 1, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 999988 more of 999999 are not among the files" in ran.err


def test_files_that_are_none_are_refused_before_an_index_is_made(
    cxrsearch: Run, scans: Path, parts: Path, tmp_path: Path
) -> None:
    def index(*files: Path) -> Ran:
        named = [word for file in files for word in ("--embeddings", file)]
        ran = cxrsearch("index", scans, "--index", tmp_path / "index", *named)
        assert not (tmp_path / "index").exists()
        return ran

    whole = (parts / "part-1.parquet").read_bytes()
    other = parquet.read_table(parts / "part-1.parquet").select(["id", "frame"])
    parquet.write_table(other, tmp_path / "other.parquet")
    shutil.copy(parts / "part-1.parquet", tmp_path / "copy.parquet")
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.parquet").write_bytes(os.urandom(100))
    for name in ("half", "none", "other"):
        ran = index(tmp_path / f"{name}.parquet")
        assert ran.code == 4
        assert f"{name}.parquet: " in ran.err
        assert "Embed this part again" in ran.err
    ran = index(parts / "part-1.parquet", tmp_path / "copy.parquet")
    assert ran.code == 4
    assert f"copy.parquet: row 1 has the image of row 1 of {parts / 'part-1.parquet'} again" in ran.err
    assert "no such file. A pattern stands in quotes" in index(parts / "party-*.parquet").err


def test_a_group_that_unpacks_to_more_than_memory_holds_is_refused(scans: Path, parts: Path, tmp_path: Path) -> None:
    """60,000 rows of one text of a mebibyte, which a dictionary stores once: 60 GiB."""
    table = parquet.read_table(parts / "part-1.parquet")
    row = {**table.to_pylist()[0], "message": "x" * 2**20}
    row["thumbnail"] = None
    one = pyarrow.Table.from_pylist([row], table.schema)
    messages = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 60_000, pyarrow.int32()), one["message"].chunk(0)
    )
    many = pyarrow.concat_tables([one.drop_columns(["message"])] * 60_000).combine_chunks()
    many = many.append_column("message", messages.cast(pyarrow.dictionary(pyarrow.int32(), pyarrow.string())))
    with parquet.ParquetWriter(tmp_path / "bomb.parquet", many.schema.with_metadata(table.schema.metadata)) as file:
        file.write_table(many, row_group_size=60_000)
    refused(tmp_path / "bomb.parquet", scans)


@pytest.mark.parametrize("part", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2"])
def test_a_part_is_one_of_so_many(cxrsearch: Run, scans: Path, tmp_path: Path, part: str) -> None:
    ran = cxrsearch("embed", scans, "--to", tmp_path / "x.parquet", "--part", part)
    assert (ran.code, "give which part of how many" in ran.err) == (2, True)


def test_options_that_cannot_go_together_are_refused(cxrsearch: Run, scans: Path, tmp_path: Path) -> None:
    more = ["--embeddings", tmp_path / "x.parquet", "--any-body-part"]
    assert "give them to cxrsearch embed" in cxrsearch("index", scans, "--index", tmp_path / "index", *more).err
    assert "ends in .parquet" in cxrsearch("embed", scans, "--to", tmp_path / "x.csv").err


def test_dates_of_a_table_that_the_header_shifts_are_not_embedded_apart(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=2, size=96)
    text = toml.read_text("utf-8").replace('[patient]\ncolumn = "patient"', '[patient]\ndicom = "PatientID"')
    toml.write_text(text.replace("[privacy]", '[privacy]\ndates = "shift"'), "utf-8")
    ran = cxrsearch("embed", toml, "--to", tmp_path / "x.parquet")
    assert ran.code == 4
    assert "dates of the table are shifted by the patient number of the header" in ran.err
