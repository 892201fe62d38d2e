"""What a stranger's file, a missing network or a missing GPU does to an import or an index: one line."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from factories import Run, image_of
from onnx import TensorProto, helper, numpy_helper

from cxrsearch.encoder import Encoder
from cxrsearch.imaging import isolated_process
from cxrsearch.imaging.radiograph import DEFAULT_GATES
from cxrsearch.model_card import DEFAULT_MODEL
from indexer.readers import ReaderConfig, Readers, ReadFile, Task
from indexer.record import Record
from trainer.importing import trial


def short_work(_: object) -> Callable[[tuple[Any, ...]], Iterator[Any]]:
    """The trial, in a process that has two seconds for each answer."""
    isolated_process.SECONDS_PER_FILE = 2
    return trial.work(None)


def graph(path: Path, *nodes: Any, sides: tuple[int, ...] = (1,), domain: str = "") -> Path:
    """An encoder (B, 1, 64, 64) -> (B, 1) that adds ``sum``, which the nodes make of ``sides``."""
    constant = numpy_helper.from_array(np.array(sides, dtype=np.int64), "sides")
    tail = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Add", ["flat", "sum"], ["embedding"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["b", 1, 64, 64]), ("embedding", ["b", 1]))
    ]
    made = helper.make_graph([*nodes, *tail], "g", ends[:1], ends[1:], [constant])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


ZEROS = helper.make_node("ConstantOfShape", ["sides"], ["zeros"])
SUM = helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0)


@pytest.fixture
def refusal(cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    """What an import that is refused prints: one line."""
    monkeypatch.setenv("CXRSEARCH_MODELS", str(tmp_path / "models"))

    def call(source: object, *options: object) -> str:
        ran = cxrsearch("models", "import", source, "--as", "theirs", *options)
        assert (ran.code, len(ran.err.splitlines())) == (4, 1), ran.err
        assert not (tmp_path / "models" / "theirs").exists()
        return ran.err

    return call


def test_a_graph_that_asks_for_a_hundred_gigabytes(refusal: Callable[[object], str], tmp_path: Path) -> None:
    assert "memory" in refusal(graph(tmp_path / "net.onnx", ZEROS, SUM, sides=(160_000, 160_000)))


def test_a_graph_that_computes_for_ever(
    refusal: Callable[[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_WORK", f"{__name__}:short_work")
    steps = [ZEROS]
    for number in range(200):  # each of 10^12 multiplications
        given = f"m{number - 1}" if number else "zeros"
        steps.append(helper.make_node("MatMul", [given, given], [f"m{number}"]))
    steps.append(helper.make_node("ReduceSum", ["m199"], ["sum"], keepdims=0))
    assert "takes more than" in refusal(graph(tmp_path / "net.onnx", *steps, sides=(10_000, 10_000)))


def test_a_graph_with_operators_or_data_of_its_own(refusal: Callable[[object], str], tmp_path: Path) -> None:
    own = helper.make_node("Anything", ["sides"], ["sum"], domain="of.my.own")
    assert "not ONNX's own" in refusal(graph(tmp_path / "own.onnx", own, domain="of.my.own"))
    file = graph(tmp_path / "data.onnx", ZEROS, SUM)
    model = onnx.load(file)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    file.write_bytes(model.SerializeToString())
    assert "data outside the file" in refusal(file)


def test_a_file_of_three_gigabytes_is_not_read(refusal: Callable[[object], str], tmp_path: Path) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        os.truncate(file.fileno(), 3 * 2**30)
    assert "too large" in refusal(tmp_path / "large.onnx")


@pytest.mark.parametrize(
    ("source", "by_hand"),
    [
        ("hf-hub:nobody/nothing", "local-dir:FOLDER"),
        ("hf:nobody/nothing", "hf:/path/to/FOLDER"),
        ("open_clip:ViT-B-32:laion2b_s34b_b79k", "--weights FILE"),
        ("timm:resnet18", "--weights FILE"),
    ],
)
def test_without_a_network_it_is_said_how_to_bring_the_files(
    refusal: Callable[[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, by_hand: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    message = refusal(source)
    assert "no network" in message
    assert by_hand in message


def test_a_saved_folder_without_weights_is_not_left_random(refusal: Callable[[object], str], tmp_path: Path) -> None:
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8,
              "patch_size": 16}, "text_cfg": {"context_length": 8, "vocab_size": 10, "width": 16, "heads": 2,
              "layers": 1}}  # fmt: skip
    import json

    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), "utf-8")
    assert "could not be loaded" in refusal(f"local-dir:{tmp_path}")


# ------------------------------------------------------------------ a GPU


def test_a_gpu_that_is_not_there_is_refused_and_said_by_doctor(
    cxrsearch: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for listed, message in ((False, "has no CUDA"), (True, "does not start here")):
        if listed:  # a package for a GPU lists it wherever it is installed
            names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
            monkeypatch.setattr(onnxruntime, "get_available_providers", lambda names=names: names)
        ran = cxrsearch("index", cohort, "--index", tmp_path / "index", "--device", "cuda")
        assert (ran.code, message in ran.err, "cxrsearch[gpu]" in ran.err) == (4, True, True), ran.err
        assert not (tmp_path / "index").exists()
        found = cxrsearch("doctor", "--format", "json")
        assert found.code == 0
        assert message in found.out


def test_what_processes_prepare_is_embedded_as_they_embed_it(cohort: Path, tmp_path: Path) -> None:
    """As for a GPU, which one process has; a file that is none, between two, moves no vector to another."""
    (tmp_path / "none.dcm").write_bytes(b"none")
    paths = [image_of(cohort, 0), tmp_path / "none.dcm", image_of(cohort, 1)]

    def vectors(encoder: Encoder | None) -> np.ndarray:
        pool = Readers(1, ReaderConfig(DEFAULT_MODEL, (), DEFAULT_GATES), encoder=encoder)
        tasks = [Task(Record(path.name, path, None, {}, None, None), path.name, "", None) for path in paths]
        try:
            read = [outcome for _, outcome in pool.read(iter(tasks))]
        finally:
            pool.stop()
        return np.stack([image.array for one in read if isinstance(one, ReadFile) for image in one.images or []])

    here, there = vectors(Encoder(DEFAULT_MODEL)), vectors(None)
    assert here.shape == (2, 256)
    np.testing.assert_allclose(here, there, atol=1e-5)
