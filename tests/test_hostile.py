"""What strangers' files, tables, models and servers may try.

Each row of docs/reference/security.md has its test here or beside the module it is about.
"""

import contextlib
import hashlib
import http.server
import json
import os
import pickle
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import WHERE_FIELDS, Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from cxrsearch.clinical.identity import Numbering
from cxrsearch.clinical.where import parse
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, IndexUnavailable, InputError, MappingError, ModelError, WhereError
from cxrsearch.imaging.read import decode
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from cxrsearch.retrieval.prediction import Predictor
from cxrsearch.store import open_store
from cxrsearch.store.contract import IndexFacts
from cxrsearch.text import clean
from cxrsearch.voting.calibration import CALIBRATION_FORMAT, Calibration
from cxrsearch.voting.nearness import Nearness
from indexer.dataset import load
from indexer.phantoms import draw, write_dicom

EVIL = "[link=file:///etc]x[/link][/bold]\x1b]0;owned\x07\x1b[2J\x9b31m"


def test_escapes_and_markup_in_dicom_text_and_file_names_stay_text(cxrsearch: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        path = folder / f"{number}\x1b[31m[bold].dcm"
        write_dicom(path, draw("Pneumonia", number, size=96), facts={"patient": f"P{number}"})
        dataset: Any = pydicom.dcmread(path)
        dataset.Manufacturer = EVIL
        dataset.save_as(path)
    (folder / "broken\x1b[2J[x].dcm").write_text("no image")
    outputs = [cxrsearch("index", folder, "--index", tmp_path / "i", "--paths", "relative")]
    assert outputs[0].code == 3
    image = next(folder.glob("1*"))
    for format in ("table", "csv", "json"):
        outputs += [
            cxrsearch("search", image, "--index", tmp_path / "i", "--format", format),
            cxrsearch("cohort", "--index", tmp_path / "i", "--by", "manufacturer", "--format", format),
            cxrsearch("cohort", "--index", tmp_path / "i", "--format", format),
        ]
    outputs.append(cxrsearch("search", folder / "broken\x1b[2J[x].dcm", "--index", tmp_path / "i"))
    outputs.append(cxrsearch("cohort", "--index", tmp_path / "i", "--where", "manufacturer = '\x1b[31m'"))
    assert [ran.code for ran in outputs[-2:]] == [4, 2]
    for ran in outputs:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", ran.out + ran.err), ran
    assert "[link=file:///etc]x[/link][/bold]" in "".join(ran.out for ran in outputs)


def test_a_loop_of_links_ends(cxrsearch: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_dicom(folder / "a.dcm", draw("Pneumonia", 1, size=96))
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "out").symlink_to("/etc/passwd")
    ran = cxrsearch("index", folder, "--index", tmp_path / "i", "--paths", "relative")
    assert ran.out.startswith("1 indexed")
    lines = (tmp_path / "i" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert {(found["path"], found["reason"]) for found in map(json.loads, lines)} >= {("loop", "outside-root")}
    gone = {found["path"]: found["message"] for found in map(json.loads, lines) if found["reason"] == "unreadable"}
    assert list(gone) == ["self"]
    assert gone["self"].endswith("a link whose target is gone")


def test_a_link_to_a_folder_is_named_and_not_followed(cxrsearch: Run, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
        write_dicom(place / "a.dcm", draw("Pneumonia", 1, size=96))
    (folder / "archive").symlink_to(elsewhere)
    ran = cxrsearch("index", folder, "--index", tmp_path / "i", "--paths", "relative")
    assert (ran.code, ran.out[:45]) == (3, "1 indexed, 0 updated, 0 unchanged, 1 rejected")
    (line,) = (tmp_path / "i" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["path"] == "archive"
    assert "index the folder that it leads to" in json.loads(line)["message"]


def test_a_table_that_would_take_all_memory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text("name = 's'\nimages = { table = 't.csv', path = '{file}' }\n")
    (tmp_path / "t.csv").write_text("file," + ",".join(f"c{n}" for n in range(10_000_000)) + "\n")
    with pytest.raises(MappingError, match="first line is longer than 1 MiB"):
        load(str(tmp_path / "set.toml"))
    with (tmp_path / "t.csv").open("wb") as table:
        table.write(b"file,note\na.png,")
        table.truncate(2**30)
    with pytest.raises(MappingError, match="larger than 512 MiB"):
        load(str(tmp_path / "set.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{x=" * 2000 + "1" + "}" * 2000,
        "[" + "a." * 5000 + "a]\nb = 1",
        "\x00",
        "=" * 100,
    ],
)
def test_toml_of_any_shape_is_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.toml").write_text(text)
    with pytest.raises(MappingError):
        load(str(tmp_path / "set.toml"))
    (tmp_path / "large.toml").write_text("# " + "x" * 2_000_000)
    with pytest.raises(MappingError, match="larger than 1 MB"):
        load(str(tmp_path / "large.toml"))


class _Executes:
    """What a pickle can do to who loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/cxrsearch-was-pickled",)


def with_encoder(folder: Path, content: bytes) -> Path:
    """A model folder whose card vouches for ``content`` as its encoder."""
    shutil.copytree(DEFAULT_MODEL, folder)
    (folder / "encoder.onnx").write_bytes(content)
    card = json.loads((folder / "model.json").read_text("utf-8"))
    card["sha256"]["encoder.onnx"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(card), "utf-8")
    return folder


def test_a_model_that_is_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be run"):
        Encoder(with_encoder(tmp_path / "model", pickle.dumps(_Executes())))
    assert not Path("/tmp/cxrsearch-was-pickled").exists()


def test_a_model_of_another_checksum_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "model"))
    with (folder / "encoder.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ModelError, match="wrong sha256"):
        Encoder(folder)


def test_a_model_that_refers_to_a_file_outside_is_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(DEFAULT_MODEL / "encoder.onnx")
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    (tmp_path / "secret.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    with pytest.raises(ModelError, match="data outside the file"):
        Encoder(with_encoder(tmp_path / "model", model.SerializeToString()))


def test_a_model_that_loops_branches_or_brings_its_own_operators_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    empty = helper.make_graph([], "g", [], [])
    made = [
        helper.make_node("If", ["c"], ["y"], then_branch=empty, else_branch=empty),
        helper.make_node("Loop", ["m", "c"], ["y"], body=empty),
        helper.make_node("Anything", ["x"], ["y"], domain="of.my.own"),
        helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    for number, node in enumerate(made):
        graph = helper.make_graph([node], "g", [given], [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        with pytest.raises(ModelError, match=r"loops or branches|not ONNX's own"):
            Encoder(with_encoder(tmp_path / str(number), model.SerializeToString()))
    function = helper.make_function("own", "f", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [given], [output])
    model = helper.make_model(graph, functions=[function], ir_version=8)
    with pytest.raises(ModelError, match="functions of its own"):
        Encoder(with_encoder(tmp_path / "functions", model.SerializeToString()))


# JSON that Python reads and no computer can use.
OUT_OF_RANGE = ["1e999", "-1e999", "NaN", "9" * 400, "-1", "[1e999]", '"\\u202e"', "{}", "null"]


def with_value(data: Any, keys: tuple[Any, ...], text: str) -> str:
    """JSON of ``data``, with ``text`` as what stands at ``keys``."""
    data = json.loads(json.dumps(data))
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = "@@"
    return json.dumps(data).replace('"@@"', text)


@pytest.mark.parametrize("text", OUT_OF_RANGE)
def test_a_number_out_of_range_is_an_error_of_the_card(tmp_path: Path, text: str) -> None:
    shutil.copytree(DEFAULT_MODEL, tmp_path / "model")
    card = json.loads((DEFAULT_MODEL / "model.json").read_text("utf-8"))
    for keys in (("image_size",), ("dimensions",), ("format",)):
        (tmp_path / "model" / "model.json").write_text(with_value(card, keys, text))
        with pytest.raises(ModelError, match=r"damaged|model format"):
            read_card(tmp_path / "model")


@pytest.mark.parametrize("text", OUT_OF_RANGE)
def test_a_number_out_of_range_is_an_error_of_the_index(text: str) -> None:
    facts = IndexFacts("m", "f", 8, {}, {}).as_json()
    nearness = {"made": "2020-01-01", "images": 5, "sampled": 5, "percentiles": [0.5] * 101}
    for keys in (("dimensions",), ("format",)):
        with pytest.raises(IndexUnavailable):
            IndexFacts.from_text(with_value(facts, keys, text), "index")
    with pytest.raises(IndexUnavailable):
        Nearness.from_json(json.loads(with_value(nearness, ("percentiles", 3), text)))
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    field = {"kernel": {"reach": None, "prior": 1.0, "sharpness": 1.0}, "threshold": 0.5, "coverage": 0.9}
    field |= {"patients": [1, 1, 1], "figures": {"accuracy": figure}}
    calibration = {"format": CALIBRATION_FORMAT, "made": "2020-01-01", "images": 5, "seed": 0, "novelty": 0.5}
    calibration |= {"fields": {"site": field}, "refused": {}, "learnt_from": []}
    assert Calibration.from_json(calibration) is not None
    places: list[tuple[Any, ...]] = [("fields", "site", "patients"), ("fields", "site", "kernel", "prior"), ("format",)]
    for keys in places:
        with pytest.raises(IndexUnavailable):
            Calibration.from_json(json.loads(with_value(calibration, keys, text)))


@pytest.mark.parametrize("text", OUT_OF_RANGE)
def test_a_number_out_of_range_is_an_error_of_a_prediction(tmp_path: Path, text: str) -> None:
    saved: dict[str, Any] = {"format": 1, "target": "t", "classes": ["a", "b"], "fingerprint": "f", "model": "m"}
    saved |= {"mean": [0.0] * 4, "scale": [1.0] * 4, "coefficients": [[1.0] * 4], "intercept": [0.0], "card": {}}
    for keys in (("mean",), ("scale",), ("coefficients",), ("intercept",), ("format",)):
        (tmp_path / "saved.json").write_text(with_value(saved, keys, text))
        with pytest.raises(InputError):
            Predictor(tmp_path / "saved.json")


@pytest.mark.parametrize(
    "other",
    [
        {"scale": [0.0] * 4},
        {"scale": [-1.0] * 4},
        {"scale": [1e-308] * 4, "coefficients": [[1e308] * 4]},
        {"classes": ["a"]},
        {"classes": ["a", "a"]},
        {"mean": 1.0, "scale": 1.0, "coefficients": [1.0]},
        {"mean": [0.0] * 5, "scale": [1.0] * 5, "coefficients": [[1.0] * 5]},
    ],
)
def test_a_prediction_whose_numbers_do_not_fit_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    saved: dict[str, Any] = {"format": 1, "target": "t", "classes": ["a", "b"], "fingerprint": "f", "model": "m"}
    saved |= {"mean": [0.0] * 4, "scale": [1.0] * 4, "coefficients": [[1.0] * 4], "intercept": [0.0], "card": {}}
    (tmp_path / "saved.json").write_text(json.dumps(saved))
    vector = np.array([1.0, 0, 0, 0], np.float32)
    assert sum(Predictor(tmp_path / "saved.json").predict(vector).predicted.values()) == 1
    (tmp_path / "saved.json").write_text(json.dumps(saved | other))
    with pytest.raises(InputError, match="damaged"):
        Predictor(tmp_path / "saved.json").predict(vector)


def test_an_encoder_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(DEFAULT_MODEL, threads=1)
    picture = np.zeros((encoder.card.image_size,) * 2, np.float32)
    assert encoder.embed([picture]).shape == (1, encoder.card.dimensions)
    monkeypatch.setattr("cxrsearch.encoder.SECONDS_PER_PICTURE", 1e-4)
    with pytest.raises(ModelError, match="takes more than"):
        encoder.embed_prepared([picture] * 20)


def test_a_pattern_that_would_never_end_is_an_error_of_the_mapping(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(
        "name = 's'\nimages = { table = 't.csv', path = '{file}' }\n"
        "[fields.note]\ncolumn = 'note'\ntype = 'keyword'\npattern = '^(x|xx)+$'\n"
    )
    (tmp_path / "t.csv").write_text("file,note\na.png," + "x" * 60 + "!\n")
    with pytest.raises(MappingError, match="takes more than 2 s"):
        load(str(tmp_path / "set.toml"))


def test_a_pattern_that_a_strangers_index_brings_has_a_time_limit() -> None:
    with pytest.raises(MappingError, match="takes more than 2 s"):
        Numbering(pattern="^(x|xx)+$").number("x" * 60 + "!")
    with pytest.raises(ValueError, match="no regular expression"):
        Numbering.from_json({"dicom": None, "path": None, "pattern": "(", "missing": []})


SECRETS = b"TOKEN=hunter2\0HOME=/root,PATH=/bin\0"


@pytest.mark.parametrize(
    ("content", "mapped"),
    [
        (SECRETS, ""),
        (b"file,age\na.png,hunter2\n", "type = 'integer'"),
        (b"file,age\na.png,hunter2\n", "type = 'float'"),
        (b"file,age\na.png,hunter2\n", "type = 'boolean'"),
        (b"file,age\na.png,hunter2\n", "type = 'date'"),
        (b"file,age\na.png,hunter2;3\n", "type = 'integer'\nseparator = ';'"),
        (b"file,age\na.png,hunter2\n", "type = 'integer'\npattern = 'h(.*)'"),
        (b"file,age\na.png,hunter2,hunter2\n", "type = 'integer'"),
        (b'file,age\na.png,"hunter2"hunter2\n', "type = 'integer'"),
        (b'file,age\na.png,"hunter2\n', "type = 'integer'"),
        (b"file,age\na.png,hunter2\xff\n", "type = 'integer'"),
        (b"hunter2,hunter2\n1,2\n", "type = 'integer'"),
    ],
)
def test_an_error_quotes_no_more_of_a_table_than_the_name_of_a_column(
    cxrsearch: Run, tmp_path: Path, content: bytes, mapped: str
) -> None:
    (tmp_path / "environ").write_bytes(content)
    field = f"[fields.age]\ncolumn = 'age'\n{mapped}\n" if mapped else ""
    images = f"images = {{ table = '{tmp_path / 'environ'}', path = '{{file}}' }}\n"
    (tmp_path / "set.toml").write_text(f"name = 's'\n{images}{field}")
    ran = cxrsearch("index", tmp_path / "set.toml", "--index", tmp_path / "index")
    assert (ran.code, ran.out) == (4, "")
    assert "hunter2" not in ran.err
    assert "PATH" not in ran.err
    assert re.search(r"line 2|'age', row 2|column '(file|age)'|not text in", ran.err), ran.err


def test_signs_that_reorder_text_are_removed() -> None:
    for sign in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        assert clean(f"exe{sign}gnp.") == "exegnp."
    assert clean("e\u202e\u0301") == clean(clean("e\u202e\u0301")) == "\u00e9"  # what is clean stays as it is
    assert clean("\u05e9\u05dc\u05d5\u05dd") == "\u05e9\u05dc\u05d5\u05dd"  # letters written from right to left stay


def test_a_model_of_other_inputs_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="not what its card says"):
        Encoder(with_encoder(tmp_path / "model", model.SerializeToString()))


def test_a_redirect_does_not_carry_the_api_key_away(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str | None] = []

    class Thief(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers.get("api-key"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Redirects(Thief):
        def do_GET(self) -> None:
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{thief.server_port}{self.path}")
            self.end_headers()

    monkeypatch.setenv("CXRSEARCH_QDRANT_API_KEY", "the-key")
    thief, server = (http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (Thief, Redirects))
    for running in (thief, server):
        threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        with pytest.raises(IndexUnavailable), open_store(f"http://127.0.0.1:{server.server_port}/x"):
            pass
    finally:
        for running in (thief, server):
            running.shutdown()
            running.server_close()
    assert received == []


# ------------------------------------------------------------------ 20,000 inputs, only the declared errors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small files of every kind, to be damaged."""
    folder = tmp_path_factory.mktemp("files")
    small = draw("COVID-19", 3, size=40)
    write_dicom(folder / "1.dcm", small, window=True)
    write_dicom(folder / "2.dcm", small, "MONOCHROME1", 12, RLELossless)
    write_dicom(folder / "3.dcm", small, bits=12, syntax=JPEG2000Lossless)
    gray = Image.fromarray((small * 255).astype(np.uint8))
    for name in ("4.png", "5.jpg", "6.tiff", "7.bmp", "8.webp"):
        gray.save(folder / name)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ten_thousand_damaged_files(data: st.DataObject, files: list[bytes]) -> None:
    content = bytearray(data.draw(st.sampled_from(files)))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12)):
        content[at % len(content)] = value
    cut = data.draw(st.none() | st.integers(0, 10**6))
    if cut is not None:
        del content[cut % len(content) :]
    with contextlib.suppress(ImageError):
        for image in decode(bytes(content), "fuzzed"):
            assert np.isfinite(image.pixels).all()
            assert image.pixels.min() >= 0
            assert image.pixels.max() <= 1


def test_a_file_cut_anywhere_in_its_header_is_refused(files: list[bytes]) -> None:
    for content in files:
        for length in range(400):
            with contextlib.suppress(ImageError):
                decode(content[:length], "cut")


TOKENS = """age site and or not in is missing contains ( ) , = != <= > 1 -2.5 2020-01-01 'a' "b true é --"""
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(TOKENS.split()), max_size=25).map(" ".join))


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_ten_thousand_expressions(text: str) -> None:
    with contextlib.suppress(WhereError):
        parse(text, WHERE_FIELDS)
