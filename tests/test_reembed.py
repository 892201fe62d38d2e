"""An index by another model: ids and facts stay, vectors change, a kill costs a batch."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from factories import Run, image_of, points

from cxrsearch.encoder import Encoder


@pytest.fixture
def half_model(tmp_path: Path) -> Path:
    """A model that gives the first half of the shipped one's embedding, and no places: card format 2."""
    import hashlib
    import json

    import onnx
    from onnx import helper, numpy_helper

    from cxrsearch.model_card import DEFAULT_MODEL

    folder = tmp_path / "half"
    folder.mkdir()
    model = onnx.load(DEFAULT_MODEL / "encoder.onnx")
    bounds = {"from": 0, "to": 128, "axis": 1}
    model.graph.initializer.extend(numpy_helper.from_array(np.array([v]), k) for k, v in bounds.items())
    model.graph.node.append(helper.make_node("Slice", ["embedding", *bounds], ["half"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT, ["batch", 128]))
    onnx.save(model, folder / "encoder.onnx")
    card = {
        "format": 2,
        "name": "half",
        "dimensions": 128,
        "input": {"channels": 1, "size": 224, "range": [0, 1], "mean": [0], "deviation": [1], "resizing": "crop"},
        "outputs": {"embedding": "half", "places": None, "attention": None},
        "pooling": "none",
        "sha256": {"encoder.onnx": hashlib.sha256((folder / "encoder.onnx").read_bytes()).hexdigest()},
    }
    (folder / "model.json").write_text(json.dumps(card), "utf-8")
    return folder


def test_ids_and_facts_stay_and_vectors_are_the_new_model_s(
    cxrsearch: Run, cohort: Path, index: Path, half_model: Path, tmp_path: Path
) -> None:
    image, new = image_of(cohort), tmp_path / "new"
    refused = cxrsearch("search", image, "--index", index, "--model", half_model)
    assert refused.code == 6
    assert "cxrsearch reembed INDEX --model MODEL --to INDEX2" in refused.err
    ran = cxrsearch("reembed", index, "--model", half_model, "--to", new)
    assert ran.code == 0, ran.err
    assert "thumbnails" not in ran.err
    before, after = points(index), points(new)
    assert before.keys() == after.keys()
    assert all(before[id].payload == after[id].payload for id in before)
    encoder = Encoder(half_model)
    for point in list(after.values())[:5]:
        assert point.vector is not None
        (expected,) = encoder.embed([cohort.parent / str(point.payload["path"])])
        np.testing.assert_allclose(point.vector, expected, atol=1e-5)
    assert sorted(p.name for p in (index / "thumbnails").rglob("*.jpg")) == sorted(
        p.name for p in (new / "thumbnails").rglob("*.jpg")
    )
    assert not (tmp_path / "new.reembedding").exists()
    # It is searched as any other, the own patient left out by the picture's digest too; maps are refused with why.
    found = cxrsearch("search", image, "--index", new, "--model", half_model)
    assert found.code == 0, found.err
    assert "left out" in found.out
    for option in (["--explain"], ["--region", "0,0,1,0.5"]):
        refused = cxrsearch("search", image, "--index", new, "--model", half_model, *option)
        assert refused.code == 2
        assert f"{option[0]}: model half does not say which place" in refused.err
    assert cxrsearch("doctor", "--index", new, "--model", half_model).code == 0
    again = cxrsearch("reembed", index, "--model", half_model, "--to", new)
    assert (again.code, "is there already" in again.err) == (2, True)


def test_without_originals_thumbnails_are_read_and_that_is_said(
    cxrsearch: Run, cohort: Path, half_model: Path, tmp_path: Path
) -> None:
    originals = Path(shutil.copytree(cohort.parent, tmp_path / "set"))
    assert cxrsearch("index", originals / cohort.name, "--index", tmp_path / "index").code == 0
    gone = image_of(originals / cohort.name)
    gone.unlink()
    ran = cxrsearch("reembed", tmp_path / "index", "--model", half_model, "--to", tmp_path / "new")
    assert ran.code == 0, ran.err
    assert "1 images were embedded from their thumbnails" in ran.err
    # Without either, it is an error that keeps what there is, or is left out when that is asked.
    (point,) = [p for p in points(tmp_path / "index").values() if str(p.payload["path"]) in str(gone)]
    next((tmp_path / "index" / "thumbnails").rglob(f"{point.id}.jpg")).unlink()
    command = ("reembed", tmp_path / "index", "--model", half_model, "--to", tmp_path / "newer")
    refused = cxrsearch(*command)
    assert refused.code == 4
    assert str(point.payload["path"]) in refused.err
    assert not (tmp_path / "newer").exists()
    ran = cxrsearch(*command, "--skip-missing")
    assert ran.code == 3
    assert points(tmp_path / "newer").keys() == points(tmp_path / "index").keys() - {point.id}
    assert "by an earlier run" in ran.out


def test_a_killed_run_is_gone_on_with(cxrsearch: Run, index: Path, half_model: Path, tmp_path: Path) -> None:
    new, kept = tmp_path / "new", tmp_path / "new.reembedding"
    code = f"""
import indexer.reembed
from cxrsearch.cli.app import run
indexer.reembed._BATCH = 4
run(["reembed", {str(index)!r}, "--model", {str(half_model)!r}, "--to", {str(new)!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while len(list(kept.glob("*.npz"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not new.exists()
    written = sorted(kept.glob("*.npz"))
    assert len(written) >= 2
    written[0].write_bytes(b"damaged")
    ran = cxrsearch("reembed", index, "--model", half_model, "--to", new)
    assert ran.code == 0, ran.err
    earlier = re.search(r"(\d+) of them by an earlier run", ran.out)
    assert earlier
    assert 4 <= int(earlier[1]) <= 4 * (len(written) - 1)
    assert points(new).keys() == points(index).keys()
    assert not kept.exists()


def test_a_run_killed_while_it_filled_the_index_is_gone_on_with(
    cxrsearch: Run, index: Path, half_model: Path, tmp_path: Path
) -> None:
    code = f"""
import os, indexer.reembed
from cxrsearch.cli.app import run
indexer.reembed.learn = lambda store: os._exit(9)
run(["reembed", {str(index)!r}, "--model", {str(half_model)!r}, "--to", {str(tmp_path / "new")!r}])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 9
    assert list((tmp_path / "new").iterdir())
    ran = cxrsearch("reembed", index, "--model", half_model, "--to", tmp_path / "new")
    assert ran.code == 0, ran.err
    assert points(tmp_path / "new").keys() == points(index).keys()


@pytest.mark.parametrize("to", ["", ".", "/", "file", "index", "index/", "index/new", "other"])
def test_a_place_that_is_taken_is_refused_and_left_as_it_is(
    cxrsearch: Run, index: Path, half_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.chdir(index.parent)
    Path("file").write_text("mine", "utf-8")
    Path("other").mkdir()
    Path("other/mine").write_text("mine", "utf-8")
    before = sorted(tmp_path.rglob("*"))
    ran = cxrsearch("reembed", "index", "--model", half_model, "--to", to)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_another_run_is_not_touched(
    cxrsearch: Run, index: Path, half_model: Path, tmp_path: Path
) -> None:
    left = tmp_path / "new.reembedding"
    left.mkdir()
    (left / "of.json").write_text('{"source": "another"}')
    ran = cxrsearch("reembed", index, "--model", half_model, "--to", tmp_path / "new")
    assert ran.code == 2
    assert "another index or model" in ran.err
    assert (left / "of.json").read_text() == '{"source": "another"}'
    ran = cxrsearch("reembed", index, "--model", "cxr-1", "--to", tmp_path / "new")
    assert (ran.code, "cxrsearch copy" in ran.err) == (2, True)
