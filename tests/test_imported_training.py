"""Training that begins at an encoder of others, here one convolution with random weights."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from factories import CLOUD_CONFIG, Run, small_onnx, write_clouds
from onnx import helper, numpy_helper

from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError
from cxrsearch.imaging.read import read
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import DEFAULT_MODEL, Pooling, find_model, read_card
from trainer.config import Config
from trainer.data.claim import claim
from trainer.data.images import Images
from trainer.data.squares import as_seen
from trainer.data.training_set import load
from trainer.importing.folder import import_model
from trainer.importing.source import Choices
from trainer.learning.compose import compose
from trainer.learning.embed import embed
from trainer.learning.fit import fit
from trainer.learning.imported import ImportedNetwork

MAP = Choices(output="map", value_range=(0, 255), mean=(100,), deviation=(50,), resizing=Resizing.STRETCH)
TOKENS = {pooling: Choices(output="tokens", pooling=pooling) for pooling in (Pooling.FIRST_TOKEN, Pooling.MEAN_TOKENS)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRSEARCH_MODELS", str(folder / "models"))
        import_model(str(small_onnx(folder / "net.onnx")), "theirs", choices=MAP)
        for pooling, choices in TOKENS.items():
            import_model(str(small_onnx(folder / "one.onnx", batch=1)), pooling.value, choices=choices)
        yield folder / "models"


def configuration(folder: Path, model: str = "theirs", frozen: float = 1, patients: int = 24) -> Path:
    if not (folder / "set").exists():
        write_clouds(folder / "set", patients)
    text = CLOUD_CONFIG.format(epochs=2, learning=f"frozen = {frozen}")
    text = text.replace('tower = "cxr-RN14-w8"\nimage_size = 64', f'pretrained = "model:{model}"')
    path = folder / f"{model.replace('/', '-')}-{frozen}.toml"
    path.write_text(text.replace("dimensions = 16", "dimensions = 4"), "utf-8")
    return path


@pytest.fixture(scope="module")
def small(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Images]:
    config = Config.load(configuration(tmp_path_factory.mktemp("small"), frozen=0))
    return config, as_seen(config, load(config)[0], read_card(find_model("theirs")).input)


@pytest.mark.parametrize("frozen", [1, 0])
def test_a_run_gives_the_encoders_graph_with_what_was_learnt(
    cxrsearch: Run, models: Path, tmp_path: Path, frozen: int
) -> None:
    """That it agrees with the network to a cosine of 0.9999 the run itself makes sure of, or it ends."""
    path = models / "theirs" / "model.json"
    described = json.loads(path.read_text("utf-8")) | {"weights_licence": "CC0", "trained_on": ["dataset"]}
    path.write_text(json.dumps(described), "utf-8")
    ran = cxrsearch("train", configuration(tmp_path, frozen=frozen), "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    leak = "theirs, which learning began with, had learnt from images of dataset"
    assert f"LEAKAGE: {leak}" in ran.out
    theirs, model = read_card(models / "theirs"), tmp_path / "run" / "model"
    card = read_card(model)
    assert (card.input, card.dimensions, card.has_places) == (theirs.input, 4, False)
    own = card.described
    assert (own["weights_licence"], own["trained_on"], own["leakage"]) == ("CC0", ["dataset"], leak)
    based_on = own["based_on"]
    assert (based_on["name"], based_on["source"]) == ("theirs", "net.onnx")
    assert based_on["fingerprint"] == theirs.fingerprint
    before, after = (
        {one.name.removeprefix("encoder."): numpy_helper.to_array(one) for one in onnx.load(folder).graph.initializer}
        for folder in (models / "theirs" / "encoder.onnx", model / "encoder.onnx")
    )
    assert np.array_equal(before["w"], after["w"]) == (frozen == 1)
    # What it makes of a file, from the file on, is what the encoder's and the head's formulas say.
    image = next((tmp_path / "set").glob("*.png"))
    square = torch.from_numpy(Encoder(model).prepare(read(image)[0]))
    local = torch.conv2d(((square * 255 - 100) / 50).expand(1, 3, -1, -1), torch.tensor(after["w"]), stride=8)
    pooled = torch.nn.functional.normalize(local.mean(dim=(2, 3)))[..., None, None]
    weight, bias = (torch.tensor(one) for name, one in after.items() if name in projection(model))
    expected = torch.nn.functional.normalize(torch.conv2d(pooled, weight, bias).flatten(1))[0].numpy()
    np.testing.assert_allclose(Encoder(model).embed([image])[0], expected, atol=1e-5)
    if not frozen:
        return
    judged = cxrsearch(
        "evaluate", configuration(tmp_path, frozen=frozen), "--model", model, "--out", tmp_path / "judged"
    )
    assert judged.code == 0, judged.err
    again = json.loads((tmp_path / "judged" / "evaluation.json").read_text("utf-8"))["galleries"]["unseen"]
    assert again["the encoder"]["map_at_r"]["value"] == pytest.approx(
        own["figures"]["unseen"]["the encoder"]["map_at_r"][0], abs=2e-3
    )


def projection(model: Path) -> list[str]:
    """The names of the weights that the head projects by, between the two that add up squares of a length."""
    nodes = onnx.load(model / "encoder.onnx").graph.node
    weights = [list(node.input[1:]) for node in nodes if node.op_type == "Conv" and node.output[0].startswith("head.")]
    assert len(weights) == 3
    return weights[1]


def test_places_stay_places_and_attention_is_learnt_on_them(cxrsearch: Run, models: Path, tmp_path: Path) -> None:
    network = ImportedNetwork(DEFAULT_MODEL, dimensions=4, attention=True, taught=True)
    assert network.attend is not None
    torch.nn.init.normal_(network.attend.weight)
    network.normalise.running_var.fill_(0.01)  # type: ignore[union-attr]
    pixels = np.random.default_rng(0).integers(0, 255, (3, 224, 224), dtype=np.uint8)
    compose(network, tmp_path / "model", {"name": "mine"}, pixels)
    encoder = Encoder(tmp_path / "model")
    assert encoder.card.has_places
    encoded = encoder.encode([one / np.float32(255) for one in pixels])
    np.testing.assert_allclose(encoded.places.sum(axis=(2, 3)), encoded.embedding, atol=1e-5)
    np.testing.assert_allclose(encoded.attention.sum(axis=(1, 2)), 1, atol=1e-5)
    assert np.ptp(encoded.attention[0]) > 1e-4
    expected = network(torch.from_numpy(pixels)[:, None] / 255)
    np.testing.assert_allclose(encoded.places, expected.places.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(encoded.attention, expected.attention.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("pooling", list(TOKENS))
@pytest.mark.parametrize("taught", [False, True])
def test_encoders_of_tokens_and_of_one_picture_at_a_time(
    models: Path, tmp_path: Path, pooling: Pooling, taught: bool
) -> None:
    network = ImportedNetwork(models / pooling.value, dimensions=4, attention=True, taught=taught)
    assert network.attend is None  # it gives one place, of which attention has nothing to choose
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    compose(network, tmp_path / "model", {"name": "mine"}, pixels)
    found = Encoder(tmp_path / "model").embed_prepared([one / np.float32(255) for one in pixels])
    np.testing.assert_allclose(found, embed(network, pixels), atol=1e-5)
    assert np.linalg.norm(found[0] - found[1]) > 1e-3


def test_training_sees_what_the_card_says(small: tuple[Config, Images]) -> None:
    config, images = small
    assert (images.resizing, images.pixels.shape[1:]) == (Resizing.STRETCH, (32, 32))
    encoder = Encoder("theirs")
    root = Path(config.data[0].mapping).parent
    for number in (0, 7):
        square = encoder.prepare(read(root / images.keys[number])[0])
        np.testing.assert_array_equal(images.pixels[number], np.rint(square * 255))


@pytest.mark.parametrize("frozen", [1.0, 0.0])
def test_a_killed_run_goes_on_as_if_never_stopped(small: tuple[Config, Images], tmp_path: Path, frozen: float) -> None:
    config, images = small
    config = config.model_copy(update={"learning": config.learning.model_copy(update={"frozen": frozen, "epochs": 3})})
    whole = fit(config, images)

    class Killed(Exception):
        pass

    def kill(line: dict[str, float]) -> None:
        if line["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(config, images, checkpoint=tmp_path / "checkpoint.pt", log=kill)
    rest = fit(config, images, checkpoint=tmp_path / "checkpoint.pt")
    assert [line["loss"] for line in rest.history] == pytest.approx([line["loss"] for line in whole.history], rel=1e-5)
    np.testing.assert_allclose(embed(rest.network, images.pixels), embed(whole.network, images.pixels), atol=1e-4)


def test_a_run_is_not_gone_on_with_from_another_encoder(
    small: tuple[Config, Images], models: Path, tmp_path: Path
) -> None:
    config, images = small
    network = config.network.model_copy(update={"pretrained": f"model:{models / 'first_token'}"})
    config = config.model_copy(update={"network": network})
    claim(tmp_path / "run", config, images, "a training run", False)
    claim(tmp_path / "run", config, images, "a training run", False)
    path = models / "first_token" / "model.json"
    described = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(described | {"sha256": {"encoder.onnx": "another"}}), "utf-8")
    with pytest.raises(InputError, match="holds a run of another encoder; give another --out"):
        claim(tmp_path / "run", config, images, "a training run", False)
    path.write_text(json.dumps(described), "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("model:theirs", "model:their"), "no installed model 'their', and no such folder. Did you mean 'theirs'?"),
        (("dimensions", 'tower = "RN50"\ndimensions'), "is an encoder of its own; leave the tower out"),
        (("dimensions", "image_size = 64\ndimensions"), "takes images of 32 pixels; leave it out"),
        (("model:theirs", "model:"), "network.pretrained: no installed model ''"),
    ],
)
def test_a_wrong_configuration_says_what(
    cxrsearch: Run, models: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = configuration(tmp_path, patients=4)
    path.write_text(path.read_text("utf-8").replace(*change), "utf-8")
    ran = cxrsearch("train", path, "--out", tmp_path / "run")
    assert (ran.code, message in " ".join(ran.err.split())) == (4, True), ran.err
    assert not (tmp_path / "run").exists()


def test_a_graph_that_cannot_be_taught_is_refused_and_learnt_on_when_left_whole(
    cxrsearch: Run, models: Path, tmp_path: Path
) -> None:
    model = onnx.load(small_onnx(tmp_path / "net.onnx"))
    model.graph.node[0].output[0] = "plain"
    model.graph.node.insert(1, helper.make_node("Mish", ["plain"], ["map"]))
    model.opset_import[0].version = 18
    onnx.save(model, tmp_path / "odd.onnx")
    import_model(str(tmp_path / "odd.onnx"), "odd", choices=MAP)
    folder = find_model("odd")
    with pytest.raises(InputError, match=r"odd cannot be taught \(its operator Mish .*learning.frozen = 1"):
        ImportedNetwork(folder, 4, attention=True, taught=True)
    ran = cxrsearch("train", configuration(tmp_path, "odd", 0, patients=4), "--out", tmp_path / "run")
    assert (ran.code, "odd cannot be taught" in ran.err, (tmp_path / "run").exists()) == (4, True, False)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    network = ImportedNetwork(folder, 4, attention=True, taught=False)
    compose(network, tmp_path / "model", {"name": "mine"}, pixels)
    assert "Mish" in {node.op_type for node in onnx.load(tmp_path / "model" / "encoder.onnx").graph.node}
