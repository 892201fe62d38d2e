"""Two encoders judged on the same patients."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from factories import Run, configuration, small_onnx
from onnx import helper

from cxrsearch.errors import InputError, ModelError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import Pooling, read_card
from trainer.config import Config
from trainer.data import splits
from trainer.data.images import Images
from trainer.data.training_set import load
from trainer.evaluation.compare import EncoderComparison, compare, different
from trainer.evaluation.seen import seen
from trainer.importing.folder import import_model
from trainer.importing.source import Choices


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of encoders without a torch network: "map" and "token", of one file, which differ in what becomes the
    embedding and in how a radiograph becomes square; "again", which is "token" in another file; "broken", whose
    embedding is no numbers."""
    folder = tmp_path_factory.mktemp("encoders")
    file = small_onnx(folder / "net.onnx")
    model = onnx.load(file)
    model.doc_string = "again"
    onnx.save(model, folder / "again.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRSEARCH_MODELS", str(folder / "models"))
        import_model(str(file), "map", choices=Choices(output="map", resizing=Resizing.CROP))
        token = Choices(output="tokens", pooling=Pooling.FIRST_TOKEN, resizing=Resizing.STRETCH)
        import_model(str(folder / "again.onnx"), "again", choices=token)
        import_model(str(file), "token", choices=token)
        import_model(str(file), "broken", choices=token)
        model.graph.node[1].input[0] = "logs"
        model.graph.node.insert(1, helper.make_node("Log", ["map"], ["logs"]))
        change(folder / "models" / "broken", model.SerializeToString())
        yield folder / "models"


def change(folder: Path, content: bytes | None = None, **described: Any) -> None:
    """Another file in a model folder, or other words on its card."""
    card = json.loads((folder / "model.json").read_text("utf-8")) | described
    if content is not None:
        (folder / "encoder.onnx").write_bytes(content)
        card["sha256"]["encoder.onnx"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(card), "utf-8")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of 48 patients, 22 of whom are held out."""
    made = configuration(tmp_path_factory.mktemp("compared"), 48, 1)
    made.write_text(made.read_text("utf-8").replace("test = 0.2", "test = 0.45"), "utf-8")
    return made


@pytest.fixture(scope="module")
def loaded(path: Path) -> tuple[Config, Images]:
    config = Config.load(path)
    return config, load(config)[0]


def compared(loaded: tuple[Config, Images], models: Path, first: str, second: str) -> EncoderComparison:
    folders = models / first, models / second
    return compare(*loaded, folders, different(*folders))


def test_the_command_gives_both_their_difference_and_the_baselines(cxrsearch: Run, models: Path, path: Path) -> None:
    ran = cxrsearch("models", "compare", "map", "token", path, "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["a"], found["b"], found["patients"], found["seed"]) == ("map", "token", 22, 3)
    assert found["notes"] == [
        f"{name}: its card does not say all that it learnt from; these images may be among that"
        for name in ("map", "token")
    ]
    rows = {(row["gallery"], row["metric"]): row for row in found["metrics"]}
    assert {"precision_at_1", "map_at_r", "vote_accuracy", "macro_auc"} <= {metric for _, metric in rows}
    assert {gallery for gallery, _ in rows} == {"archive", "unseen"}
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["b"] - row["a"], abs=1e-12)
        assert row["difference low"] <= row["difference"] <= row["difference high"]
        assert 0 <= row["b_better"] <= 1
        assert {"ImageNet trunk, frozen", "32 x 32 thumbnails"} <= row.keys()
    ran = cxrsearch("models", "compare", "map", "token", path, "--format", "csv")
    assert "does not say all that it learnt from" in ran.err  # and not among the rows
    flat = {(row["gallery"], row["metric"]): row for row in csv.DictReader(io.StringIO(ran.out))}
    assert flat.keys() == rows.keys()
    # The same seed draws the same patients.
    key = ("unseen", "map_at_r")
    assert float(flat[key]["difference low"]) == rows[key]["difference low"]


def test_an_encoder_without_a_network_is_evaluated_by_its_file_to_the_same_figures(
    cxrsearch: Run, loaded: tuple[Config, Images], models: Path, path: Path, tmp_path: Path
) -> None:
    ran = cxrsearch("evaluate", path, "--model", "token", "--out", tmp_path / "judged")
    assert ran.code == 0, ran.err
    judged = json.loads((tmp_path / "judged" / "evaluation.json").read_text("utf-8"))["galleries"]["unseen"]
    found = compared(loaded, models, "token", "map")
    for one in found.metrics:
        if one.gallery == "unseen":
            assert one.first.value == pytest.approx(judged["the encoder"][one.metric]["value"], nan_ok=True)


def test_of_a_pair_that_is_turned_round_everything_is_mirrored(loaded: tuple[Config, Images], models: Path) -> None:
    there, back = (compared(loaded, models, *pair) for pair in (("map", "token"), ("token", "map")))
    assert any(one.first.value != one.second.value for one in there.metrics)
    for one, other in zip(there.metrics, back.metrics, strict=True):
        assert other.difference.low == pytest.approx(-one.difference.high, abs=1e-12, nan_ok=True)
        assert other.second_better == pytest.approx(1 - one.second_better, abs=1e-12)


def test_an_encoder_and_its_twin_differ_by_nothing_in_any_resample(loaded: tuple[Config, Images], models: Path) -> None:
    """Which holds of a paired bootstrap alone: each one's own figure has a wide interval."""
    found = compared(loaded, models, "token", "again")
    for one in found.metrics:
        assert (one.difference.low, one.difference.high, one.second_better) == (0, 0, 0.5)
    assert any(one.first.high > one.first.low + 0.05 for one in found.metrics)


def test_what_an_encoder_learnt_from_is_said(loaded: tuple[Config, Images], models: Path) -> None:
    def says(**described: Any) -> str:
        change(models / "again", **described)
        return seen(*loaded, models / "again", read_card(models / "again"), "it", everything=False).note

    assert says(trained_on=["dataset"]) == "it learnt from images of dataset: its figures on them flatter it"
    own = "it was trained by this configuration: it learnt from the archive, not from the patients searched"
    config, images = loaded
    parts = splits.run_parts(images, config.held_out, config.seed)
    sizes = {
        name: int(mask.sum()) for name, mask in zip(("train", "validation", "test"), vars(parts).values(), strict=True)
    }
    by_this = {"name": "small", "seed": 3, "classes": config.classes, "images": sizes}
    assert says(**by_this) == own
    assert "it learnt from images of dataset" in says(images=sizes | {"test": 30})
    assert "it learnt from images of dataset" in says(images=sizes, classes={})
    assert says(classes=config.classes) == own
    assert "it learnt from images of dataset" in says(based_on={"trained_on": ["dataset"]})
    assert "does not say all" in says(name="again", trained_on=["other"], based_on={"trained_on": []})
    assert says(based_on=None) == ""
    change(models / "again", trained_on=["dataset"])
    folders = models / "again", models / "token"
    protocol = compare(*loaded, folders, different(*folders), external=True).protocol
    assert protocol.startswith("an archive that was learnt from: ")
    change(models / "again", trained_on=[])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("map", "map"), 2, "the same encoder twice"),
        (("map", "mop"), 4, "Did you mean 'map'?"),
        (("map", "again", "--root", "x"), 2, "which --root goes with"),
        (("map", "again", "--external", "nowhere.toml"), 2, "give a CONFIG.toml, or --external MAPPING"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(
    cxrsearch: Run, models: Path, path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = cxrsearch("models", "compare", *arguments, path)
    assert (ran.code, message in " ".join(ran.err.split())) == (code, True), ran.err


def test_too_few_patients_and_embeddings_of_no_numbers_are_refused(loaded: tuple[Config, Images], models: Path) -> None:
    config, images = loaded
    few = config.model_copy(update={"held_out": config.held_out.model_copy(update={"test": 0.1})})
    with pytest.raises(InputError, match="5 patients to judge on; a comparison takes 20"):
        compared((few, images), models, "map", "again")
    with pytest.raises(ModelError, match="broken: gives no vectors of 6 numbers"):
        compared(loaded, models, "map", "broken")


def test_without_patients_there_is_no_comparison(cxrsearch: Run, models: Path, tmp_path: Path) -> None:
    configuration(tmp_path, 4, 1)
    mapping = tmp_path / "set" / "dataset.toml"
    mapping.write_text(mapping.read_text("utf-8").replace('[patient]\ncolumn = "patient"\n', ""), "utf-8")
    ran = cxrsearch("models", "compare", "map", "token", "--external", mapping)
    assert (ran.code, "--allow-leakage takes each image for a patient of its own" in ran.err) == (4, True), ran.err
