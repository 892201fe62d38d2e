"""Learning from several findings, each known to some datasets: pairs, where learning begins, what is judged how."""

import csv
import hashlib
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import Run, cloud, small_model, small_onnx, write_clouds

from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError
from cxrsearch.model_card import read_card
from indexer.dataset import Image as DatasetImage
from trainer.config import Config
from trainer.data.images import Images
from trainer.data.left_out import listed
from trainer.data.training_set import datasets_of, load
from trainer.evaluation import baselines
from trainer.evaluation.seen import is_own
from trainer.learning.embed import embed
from trainer.learning.fit import fit
from trainer.learning.network import Architecture, Network
from trainer.learning.objective import Known, Objective, hard_pairs, pairs_of
from trainer.learning.start import begin_at_findings

SEVERAL = """
name = "several"
seed = 1

[[data]]
mapping = "north/dataset.toml"
source = "hospital"
knows = ["nothing", "opacity", "COVID-19"]

[[data]]
mapping = "south/dataset.toml"
knows = ["nothing", "opacity"]
leave_out = ["south/out.csv"]
{south}

[classes]
nothing = ["No Finding"]
opacity = ["Pneumonia", "COVID-19"]
"COVID-19" = ["COVID-19"]

[network]
tower = "cxr-RN14-w8"
image_size = 64
dimensions = 16

[learning]
epochs = 2
images_per_class = 4

[held_out]
validation = 0.2
test = 0.3
"""


def several(folder: Path, south: str = "") -> Path:
    """Two hospitals; that of the south does not tell COVID-19 from other pneumonia."""
    for name in ("north", "south"):
        toml = write_clouds(folder / name, 30)
        text = (
            toml.read_text("utf-8")
            .replace('"clouds"', f'"{name}"')
            .replace("[patient]\n", f'[patient]\nnamespace = "{name}"\n')
        )
        toml.write_text(text, "utf-8")
    table = folder / "north" / "facts.csv"
    toml = folder / "north" / "dataset.toml"
    toml.write_text(
        toml.read_text("utf-8").replace('type = "keyword"\n', 'type = "keyword"\nseparator = "|"\n', 1), "utf-8"
    )
    table.write_text(table.read_text("utf-8").replace(",COVID-19,", ",COVID-19|Pneumonia,"), "utf-8")
    rng = np.random.default_rng(9)
    for path in sorted((folder / "south").glob("*.png")):
        # Other pictures than those of the north.
        cloud(rng, "MRN0" in path.name).save(path.with_name(f"S{path.name}"))
        path.unlink()
    table = folder / "south" / "facts.csv"
    table.write_text(table.read_text("utf-8").replace("MRN", "SMRN"), "utf-8")
    (folder / "south" / "out.csv").write_text("file,why\nSMRN1-0.png,contradicted\n", "utf-8")
    (folder / "config.toml").write_text(SEVERAL.format(south=south), "utf-8")
    return folder / "config.toml"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Images]:
    config = Config.load(several(tmp_path_factory.mktemp("several")))
    return config, load(config)[0]


def test_a_dataset_says_nothing_of_a_class_that_it_does_not_know(loaded: tuple[Config, Images]) -> None:
    _, images = loaded
    assert images.classes == ("nothing", "opacity", "COVID-19")
    rows = {(d, k): f for d, k, f in zip(images.datasets, images.keys, images.findings.tolist(), strict=True)}
    assert rows["north", "MRN2-0.png"] == [0, 1, 1]
    assert rows["north", "MRN4-0.png"] == [0, 1, 0]
    assert rows["north", "MRN1-0.png"] == [1, 0, 0]
    assert rows["south", "SMRN2-0.png"] == [0, 1, -1]
    assert set(images.sources) == {"hospital", "south"}


def test_a_value_that_does_not_say_everything_leaves_classes_open(tmp_path: Path) -> None:
    path = several(tmp_path)
    text = path.read_text("utf-8")
    opened = 'leaves_open = { Pneumonia = ["COVID-19"], ARDS = ["opacity", "COVID-19"] }\nknows ='
    path.write_text(text.replace("knows =", opened, 1), "utf-8")
    table = tmp_path / "north" / "facts.csv"
    said = {
        "MRN4-0.png": "Pneumonia",
        "MRN6-0.png": "ARDS",
        "MRN8-0.png": "Pneumonia|Lipoid",
        "MRN10-0.png": "ARDS|Pneumonia",
    }
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"finding": said.get(row["file"], row["finding"])} for row in rows)
    images, _ = load(Config.load(path))
    found = {(d, k): f for d, k, f in zip(images.datasets, images.keys, images.findings.tolist(), strict=True)}
    assert found["north", "MRN4-0.png"] == [0, 1, -1]
    assert found["north", "MRN6-0.png"] == [0, -1, -1]
    assert found["north", "MRN8-0.png"] == [0, 1, 0], "a cause that is said"
    assert found["north", "MRN10-0.png"] == [0, 1, -1], "in a class, whatever another value leaves open"
    assert found["north", "MRN2-0.png"] == [0, 1, 1]
    assert found["south", "SMRN2-0.png"] == [0, 1, -1]


def test_images_on_a_list_are_left_out_and_counted(tmp_path: Path) -> None:
    config = Config.load(several(tmp_path))
    images, left = load(config)
    assert ("south", "SMRN1-0.png") not in set(zip(images.datasets, images.keys, strict=True))
    assert ("north", "MRN1-0.png") in set(zip(images.datasets, images.keys, strict=True))
    assert "1 on a list of what to leave out" in str(left)
    (tmp_path / "south" / "out.csv").unlink()
    with pytest.raises(InputError, match=r"out\.csv: a list of images to leave out, which cannot be read"):
        load(config)


@pytest.mark.parametrize(
    ("content", "gone"),
    [
        ("\ufeffSMRN1-0.png,bad\nSMRN2-0.png,bad\n", {"x/SMRN1-0.png", "y/SMRN1-0.png", "y/SMRN2-0.png"}),
        ("file\nx/SMRN1-0.png\n", {"x/SMRN1-0.png"}),
        ("file\nsouth/y/SMRN1-0.png\n", {"y/SMRN1-0.png"}),
        ("file\nelsewhere/SMRN1-0.png\n", {"x/SMRN1-0.png", "y/SMRN1-0.png"}),
    ],
)
def test_a_listed_path_is_one_image_and_a_listed_name_every_image_of_that_name(
    tmp_path: Path, content: str, gone: set[str]
) -> None:
    path, kept = in_folders(tmp_path), {"x/SMRN1-0.png", "y/SMRN1-0.png", "y/SMRN2-0.png"}
    (tmp_path / "south" / "out.csv").write_text(content, "utf-8")
    images, left = load(Config.load(path))
    assert kept - set(images.keys) == gone
    assert left.listed == len(gone)


def test_a_list_of_an_archive_whose_files_have_one_name_is_read_in_seconds(tmp_path: Path) -> None:
    config = Config.load(several(tmp_path))
    keys = [f"train/patient{n}/study1/view1.jpg" for n in range(20_000)]
    sets = datasets_of(config)
    sets[1] = replace(sets[1], images=[DatasetImage(key, key, None, []) for key in keys])
    entries = [f"CheXpert/{key}" if n % 2 else key for n, key in enumerate(keys[:2000])]
    (tmp_path / "south" / "out.csv").write_text("\n".join(entries), "utf-8")
    started = time.monotonic()
    assert listed(config, sets) == {("south", key) for key in keys[:2000]}
    assert time.monotonic() - started < 10  # comparing each entry with each key takes minutes


def in_folders(folder: Path) -> Path:
    """``several``, with the images of the south in folders."""
    path, south, rng = several(folder), folder / "south", np.random.default_rng(5)
    for name in ("x", "y"):
        (south / name).mkdir()
    for file in south.glob("*.png"):
        file.rename(south / "y" / file.name)
    cloud(rng, False).save(south / "x" / "SMRN1-0.png")
    table = (south / "facts.csv").read_text("utf-8").replace("\nSMRN", "\ny/SMRN")
    (south / "facts.csv").write_text(table + "x/SMRN1-0.png,SMRN1,No Finding,South\n", "utf-8")
    return path


def test_a_list_that_leaves_nothing_out_is_refused_and_names_that_are_nowhere_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, out = several(tmp_path), tmp_path / "south" / "out.csv"
    for content in ("SMRN1-0.png;bad\nSMRN2-0.png;bad\n", "SMRN1-0\nSMRN2-0\n"):
        out.write_text(content, "utf-8")
        with pytest.raises(InputError, match=r"out\.csv: none of the 2 images .* is in south; the first is 'SMRN1-0"):
            load(Config.load(path))
    # One list may serve several datasets.
    path.write_text(path.read_text("utf-8").replace("knows =", 'leave_out = ["south/out.csv"]\nknows =', 1), "utf-8")
    out.write_text("file\nSMRN1-0.png\nMRN1-0.png\n", "utf-8")
    assert load(Config.load(path))[1].listed == 2
    assert caplog.messages == []
    out.write_text("SMRN1-0.png\nMRN1-0.png\na.png\n", "utf-8")
    assert load(Config.load(path))[1].listed == 2
    assert caplog.messages == [f"{out}: 1 of the images to leave out are not in north, south"]


def test_two_datasets_of_one_name_are_refused(tmp_path: Path) -> None:
    path = several(tmp_path)
    path.write_text(path.read_text("utf-8").replace("north/dataset.toml", "south/dataset.toml"), "utf-8")
    with pytest.raises(InputError, match=r"2 of \[\[data\]\] are of a dataset 'south'; each needs a name of its own"):
        load(Config.load(path))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed = 1", 'label = "findings"', r"field 'findings'\. Did you mean 'finding'\? The fields are finding, site"),
        ('["No Finding"]', '["no finding"]', "every image is in one class, 'opacity'"),
        ('"Pneumonia", "COVID-19"]', '"pneumonia"]', "has the values 'COVID-19', 'No Finding', 'Pneumonia'"),
    ],
)
def test_without_two_classes_the_label_and_its_values_are_named(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    path = several(tmp_path)
    text = path.read_text("utf-8").replace(before, after).replace('"COVID-19" = ["COVID-19"]\n', "")
    path.write_text(re.sub(r"(knows|leave_out) = .*\n", "", text), "utf-8")
    with pytest.raises(InputError, match=message) as raised:
        load(Config.load(path))
    assert "patient" not in str(raised.value)


def test_a_class_that_is_no_class_is_refused(tmp_path: Path) -> None:
    path = several(tmp_path)
    path.write_text(path.read_text("utf-8").replace('"nothing", "opacity"]', '"nothing", "opacty"]'), "utf-8")
    with pytest.raises(InputError, match=r"south: knows 'opacty', which is no class.*opacity"):
        load(Config.load(path))
    text = path.read_text("utf-8").replace("opacty", "opacity")
    path.write_text(text.replace("knows =", 'leaves_open = { Pneumonia = ["COVID19"] }\nknows =', 1), "utf-8")
    with pytest.raises(InputError, match=r"north: leaves_open of 'Pneumonia' has 'COVID19', which is no class"):
        load(Config.load(path))


def test_images_that_nothing_is_judged_on_need_no_patient_and_are_never_held_out(tmp_path: Path) -> None:
    from trainer.data import splits

    path = several(tmp_path, "judged = false")
    toml = tmp_path / "south" / "dataset.toml"
    toml.write_text(re.sub(r"\[patient\].*?\n\n?(?=\[fields)", "", toml.read_text("utf-8"), flags=re.DOTALL), "utf-8")
    images, left = load(Config.load(path))
    assert left.no_patient == 0
    south = np.array(images.datasets) == "south"
    assert (images.labelled & south).sum() == 39
    test = splits.held_out(images, 0.5, 0)
    assert (test & images.judgeable).any()
    assert not (test & south).any()


@pytest.mark.parametrize(("epochs", "names"), [(0, ["dataset"]), (1, ["dataset", "other"])])
def test_a_card_names_the_datasets_that_were_learnt_from(
    cxrsearch: Run, tmp_path: Path, epochs: int, names: list[str]
) -> None:
    """One without labels only where epochs without labels are asked for; by these the configuration knows its own."""
    path = several(tmp_path, "labelled = false")
    (tmp_path / "south" / "dataset.toml").rename(tmp_path / "south" / "other.toml")
    text = path.read_text("utf-8").replace("south/dataset.toml", "south/other.toml")
    path.write_text(text.replace("epochs = 2", f"epochs = 1\nself_supervised_epochs = {epochs}"), "utf-8")
    ran = cxrsearch("train", path, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text("utf-8"))
    assert card["trained_on"] == names
    config, away = Config.load(path), shutil.copytree(tmp_path / "run" / "model", tmp_path / "away" / "small")
    assert is_own(config, load(config)[0], away, read_card(away))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 1 + epochs


def test_pairs_share_a_finding_or_are_of_one_source_and_known_to_share_none() -> None:
    findings = torch.tensor([[1, 0, -1], [1, 1, 0], [0, 1, 0], [0, -1, 1], [-1, -1, 1], [0, 1, 0]], dtype=torch.int8)
    sources = torch.tensor([0, 0, 0, 0, 0, 1])
    alike, unlike = pairs_of(Known(findings, sources))
    pairs = lambda mask: {(int(a), int(b)) for a, b in mask.nonzero() if a < b}  # noqa: E731
    assert pairs(alike) == {(0, 1), (1, 2), (1, 5), (2, 5), (3, 4)}
    # 0 and 3: of the third finding nothing is known of 0. 2 and 3: nor of the second of 3. 0 and 5: two sources.
    assert pairs(unlike) == {(0, 2)}
    assert bool((alike == alike.T).all())
    assert bool((unlike == unlike.T).all())


def test_only_hard_pairs_are_kept() -> None:
    angles = torch.tensor([0.0, 0.1, 1.2, 0.2, 3.1])
    embedding = torch.stack([angles.cos(), angles.sin()], dim=1)
    alike, unlike = torch.zeros(5, 5, dtype=torch.bool), torch.zeros(5, 5, dtype=torch.bool)
    alike[0, 1] = alike[0, 2] = unlike[0, 3] = unlike[0, 4] = True
    kept, apart = hard_pairs(embedding, alike, unlike)
    assert kept[0].tolist() == [False, True, True, False, False]  # nearest unlike cos 0.2; 0.1 is within the margin
    assert apart[0].tolist() == [False, False, False, True, False]  # cos 3.1 is far below the farthest alike


def test_the_loss_does_not_depend_on_what_is_not_known(loaded: tuple[Config, Images]) -> None:
    config, _ = loaded
    findings = torch.tensor([[1, 0, -1], [0, 1, -1], [1, 0, -1], [0, 1, 1]], dtype=torch.int8)
    torch.manual_seed(0)
    objective = Objective(config.learning, findings, 16)
    embedding = torch.nn.functional.normalize(torch.randn(4, 16), dim=1).requires_grad_()
    loss = objective(embedding, Known(findings, torch.zeros(4, dtype=torch.long)), 0.0)
    loss.backward()
    objective.classes.data[2] += 5  # the third finding is known of the last image alone
    other = objective(embedding.detach()[:3], Known(findings[:3], torch.zeros(3, dtype=torch.long)), 0.0)
    objective.classes.data[2] -= 7
    same = objective(embedding.detach()[:3], Known(findings[:3], torch.zeros(3, dtype=torch.long)), 0.0)
    torch.testing.assert_close(other, same)
    assert embedding.grad is not None


def test_distillation_is_least_where_neighbours_are_as_before(loaded: tuple[Config, Images]) -> None:
    config, _ = loaded
    learning = config.learning.model_copy(update={"distillation": 1.0, "objective": "cross-entropy"})
    without = learning.model_copy(update={"distillation": 0.0})
    findings, sources = torch.ones(8, 3, dtype=torch.int8), torch.zeros(8, dtype=torch.long)
    start = torch.nn.functional.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    costs = []
    for embedding in (start, start.flip(0)):
        torch.manual_seed(0)
        kept = Objective(learning, findings, 16)(embedding, Known(findings, sources, start), 1.0)
        torch.manual_seed(0)
        costs.append((kept - Objective(without, findings, 16)(embedding, Known(findings, sources), 1.0)).item())
    assert costs[0] == pytest.approx(0, abs=1e-5)
    assert costs[1] > 0.1


def test_weights_of_a_package_are_loaded_and_learning_begins_where_they_are() -> None:
    network = Network(Architecture("efficientnet-lite0", 64, 8), baselines.FROZEN_WEIGHTS)
    other = Network(Architecture("efficientnet-lite0", 64, 8))
    state, untaught = network.trunk.state_dict(), other.trunk.state_dict()
    assert any(not torch.equal(state[name], untaught[name]) for name in state)
    rng = np.random.default_rng(0)
    pictures = np.stack([np.asarray(cloud(rng, n % 2 == 0).resize((64, 64))) for n in range(40)])
    unknown = np.full((40, 1), -1, dtype=np.int8)
    begin_at_findings(network, pictures, unknown, np.repeat("hospital", 40))
    vectors = embed(network, pictures)
    # Centred and along principal components: similarities are spread out, and stripes are told from none.
    similarity = vectors @ vectors.T
    assert np.median(similarity) < 0.5
    np.fill_diagonal(similarity, -1)
    assert (similarity.argmax(axis=1) % 2 == np.arange(40) % 2).mean() > 0.8


def test_what_a_finding_looks_like_comes_first_and_what_a_hospital_looks_like_does_not() -> None:
    rng, count = np.random.default_rng(0), 80
    striped, south = np.arange(count) % 4 < 2, np.arange(count) % 8 < 5  # striped more often in the north
    pictures = np.stack([np.asarray(cloud(rng, bool(one)).resize((64, 64))) for one in striped])
    pictures[south, :, :16] = 255  # a bright edge tells the hospital
    network = Network(Architecture("efficientnet-lite0", 64, 8), baselines.FROZEN_WEIGHTS)
    findings = striped[:, None].astype(np.int8)
    begin_at_findings(network, pictures, findings, np.where(south, "south", "north"))
    first = embed(network, pictures)[:, 0]
    assert abs(np.corrcoef(first, striped)[0, 1]) > 0.9
    assert abs(np.corrcoef(first, south)[0, 1]) < 0.3


def test_no_epochs_keep_where_learning_begins(loaded: tuple[Config, Images]) -> None:
    config, images = loaded
    none = config.learning.model_copy(update={"epochs": 0})
    start = config.network.model_copy(update={"tower": "efficientnet-lite0", "pretrained": baselines.FROZEN_WEIGHTS})
    found = fit(config.model_copy(update={"learning": none, "network": start}), images.part(images.labelled))
    untaught = Network(found.network.architecture, baselines.FROZEN_WEIGHTS)
    kept, came = found.network.state_dict(), untaught.state_dict()
    assert all(torch.equal(kept[name], came[name]) for name in kept if name.startswith("trunk."))
    assert not torch.equal(kept["project.weight"], came["project.weight"])
    assert (found.epoch, found.history) == (0, [])


def test_no_epochs_without_a_pretrained_trunk_are_refused(tmp_path: Path) -> None:
    path = several(tmp_path)
    path.write_text(path.read_text("utf-8").replace("epochs = 2", "epochs = 0"), "utf-8")
    with pytest.raises(InputError, match=r"learning\.epochs is 0, .*network\.pretrained"):
        Config.load(path)


def test_a_package_that_is_not_there_or_does_not_fit_says_so() -> None:
    with pytest.raises(InputError, match=r"pretrained 'package:no-such-thing' cannot be used"):
        Network(Architecture("efficientnet-lite0", 64, 8), "package:no-such-thing")
    with pytest.raises(InputError, match=r"tensors are not this tower's"):
        Network(Architecture("cxr-RN14-w8", 64, 8), baselines.FROZEN_WEIGHTS)


def test_a_frozen_trunk_stays_as_it_came(loaded: tuple[Config, Images]) -> None:
    config, images = loaded
    network = config.network.model_copy(
        update={"tower": "efficientnet-lite0", "pretrained": baselines.FROZEN_WEIGHTS, "dimensions": 8}
    )
    learning = config.learning.model_copy(update={"frozen": 1.0, "distillation": 1.0, "epochs": 1})
    found = fit(config.model_copy(update={"network": network, "learning": learning}), images)
    came = Network(Architecture("efficientnet-lite0", 64, 8), baselines.FROZEN_WEIGHTS).trunk.state_dict()
    for name, value in found.network.trunk.state_dict().items():
        torch.testing.assert_close(value, came[name])


def test_what_was_learnt_is_taken_part_of_the_way_back(loaded: tuple[Config, Images]) -> None:
    config, images = loaded
    network = config.network.model_copy(
        update={"tower": "efficientnet-lite0", "pretrained": baselines.FROZEN_WEIGHTS, "dimensions": 8}
    )

    def learnt(**changes: Any) -> dict[str, torch.Tensor]:
        learning = config.learning.model_copy(update={"epochs": 1, **changes})
        return dict(
            fit(config.model_copy(update={"network": network, "learning": learning}), images).network.state_dict()
        )

    whole, quarter, start = learnt(), learnt(back_to_start=0.25), learnt(epochs=0)
    moved = [name for name in whole if not torch.equal(whole[name], start[name])]
    assert {"project.weight", "normalise.running_mean"} <= set(moved)
    for name in moved:
        if whole[name].is_floating_point():
            torch.testing.assert_close(quarter[name], 0.75 * whole[name] + 0.25 * start[name])


def test_there_is_no_way_back_to_random_weights(tmp_path: Path) -> None:
    path = several(tmp_path)
    path.write_text(path.read_text("utf-8").replace("epochs = 2", "epochs = 2\nback_to_start = 0.5"), "utf-8")
    with pytest.raises(InputError, match=r"back_to_start goes back to pretrained weights"):
        Config.load(path)


@pytest.mark.slow
def test_several_findings_are_judged_at_once_and_by_source(cxrsearch: Run, tmp_path: Path) -> None:
    config, out = several(tmp_path), tmp_path / "run"
    ran = cxrsearch("train", config, "--out", out)
    assert ran.code == 0, ran.err
    assert "nDCG@10" in ran.out
    assert "ImageNet trunk, frozen" in ran.out
    card = json.loads((out / "model" / "model.json").read_text("utf-8"))
    assert set(card["figures"]["by source"]) == {"hospital", "south"}
    assert Encoder(out / "model").card.dimensions == 16
    left = cxrsearch("evaluate", config, "--leave-out", "source", "--out", tmp_path / "left")
    assert left.code == 0, left.err
    assert "without source hospital" in left.err
    found = json.loads((tmp_path / "left" / "evaluation.json").read_text("utf-8"))
    assert "map" in found["sources"]["south"]["unseen"]["32 x 32 thumbnails"]
    page = (tmp_path / "left" / "evaluation.html").read_text("utf-8")
    assert "Queries from south" in page


@pytest.mark.slow
def test_an_archive_that_was_not_learnt_from_is_searched_by_patient(cxrsearch: Run, tmp_path: Path) -> None:
    config = several(tmp_path)
    assert cxrsearch("train", config, "--out", tmp_path / "run").code == 0
    # No name of a configuration, and not the mapping that the model's card names.
    toml = write_clouds(tmp_path / "elsewhere", 40).rename(tmp_path / "elsewhere" / "my data.toml")
    judge = ["evaluate", "--model", tmp_path / "run" / "model", "--external", toml]
    ran = cxrsearch(*judge, "--out", tmp_path / "external")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "external" / "evaluation.json").read_text("utf-8"))
    assert found["protocol"].startswith("an archive that nothing was learnt from: ")
    assert found["patients"] == 10  # a quarter of 40
    assert set(found["classes"]) == {"COVID-19", "No Finding", "Pneumonia"}


def test_an_archive_that_a_model_learnt_from_is_called_so(cxrsearch: Run, tmp_path: Path) -> None:
    from cxrsearch.model_card import DEFAULT_MODEL

    toml = write_clouds(tmp_path / "set", 12).rename(tmp_path / "set" / "nih.toml")
    said = "cxr-1 learnt from images of nih: its figures on them flatter it"
    ran = cxrsearch("evaluate", "--model", DEFAULT_MODEL, "--external", toml, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "an archive that was learnt from: a part of its patients is searched for among the others" in ran.out
    assert f"LEAKAGE: {said}" in ran.out
    page = (tmp_path / "out" / "evaluation.html").read_text("utf-8")
    assert f"Leakage: {said}" in page
    assert "an archive that was learnt from" in page
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))["leakage"] == said


@pytest.mark.parametrize("size", [16, pytest.param(1040, marks=pytest.mark.slow)])
def test_an_encoder_of_any_size_is_judged_on_an_archive(cxrsearch: Run, tmp_path: Path, size: int) -> None:
    model, toml = small_model(tmp_path / "model"), write_clouds(tmp_path / "set", 12)
    content = small_onnx(model / "encoder.onnx", size=size).read_bytes()
    card = json.loads((model / "model.json").read_text("utf-8"))
    card["input"]["size"], card["sha256"] = size, {"encoder.onnx": hashlib.sha256(content).hexdigest()}
    (model / "model.json").write_text(json.dumps(card), "utf-8")
    ran = cxrsearch("evaluate", "--model", model, "--external", toml, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    # Its card says nothing of what it learnt from.
    assert "an archive: a part of its patients is searched for among the others; small: its card does not" in ran.out


def test_agreement_with_scores_is_beside_random_neighbours(cxrsearch: Run, tmp_path: Path) -> None:
    from cxrsearch.model_card import DEFAULT_MODEL

    toml, rng = write_clouds(tmp_path / "set", 30), np.random.default_rng(0)
    table = tmp_path / "set" / "facts.csv"
    head, *rows = table.read_text("utf-8").splitlines()
    scored = [f"{row},{3 if 'No' not in row else 0},{rng.integers(4)}" for row in rows]
    table.write_text("\n".join([f"{head},right,left", *scored]) + "\n", "utf-8")
    text = '\n[fields.right]\ncolumn = "right"\ntype = "float"\n[fields.left]\ncolumn = "left"\ntype = "float"\n'
    toml.write_text(toml.read_text("utf-8") + text, "utf-8")
    judge = ["evaluate", "--model", DEFAULT_MODEL, "--external", toml, "--out", tmp_path / "out"]
    ran = cxrsearch(*judge, "--agreement", "right,left")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "out" / "agreement.json").read_text("utf-8"))
    assert found["images"] == 40
    assert set(found["methods"]) == {"the encoder", "ImageNet trunk, frozen", "32 x 32 thumbnails", "random neighbours"}
    own = found["methods"]["the encoder"]["rank_correlation"]
    assert own["low"] <= own["value"] <= own["high"]
    ran = cxrsearch(*judge, "--agreement", "right, lft")
    assert ran.code == 4
    assert "--agreement: no image has a field 'lft'. Did you mean 'left'?" in ran.err
    ran = cxrsearch(*judge, "--agreement", "right, site")
    assert ran.code == 4
    assert "0 images have a number in all of these fields" in ran.err


def test_agreement_is_of_images_that_may_be_judged_on_and_says_what_the_model_learnt_from(
    cxrsearch: Run, tmp_path: Path
) -> None:
    """Copies of unknown patients would find themselves."""
    from cxrsearch.model_card import DEFAULT_MODEL

    def scored(folder: Path, patients: int, unknown: int) -> None:
        write_clouds(folder, patients)
        head, *rows = (folder / "facts.csv").read_text("utf-8").splitlines()
        cells = [row.split(",") for row in rows]
        for number, row in enumerate(cells):
            row[1:3] = ["", ""] if number < unknown else row[1:3]
        lines = [",".join([*row, str(n % 4)]) for n, row in enumerate(cells)]
        (folder / "facts.csv").write_text("\n".join([f"{head},score", *lines]) + "\n", "utf-8")
        text = '\n[fields.score]\ncolumn = "score"\ntype = "float"\n'
        (folder / "nih.toml").write_text((folder / "dataset.toml").read_text("utf-8") + text, "utf-8")

    scored(tmp_path / "set", 24, unknown=6)
    judge = ["evaluate", "--model", DEFAULT_MODEL, "--agreement", "score", "--out", tmp_path / "out"]
    for arguments in ([], ["--allow-leakage"]):
        ran = cxrsearch(*judge, "--external", tmp_path / "set" / "nih.toml", *arguments)
        assert ran.code == 0, ran.err
        assert "cxr-1 learnt from images of nih: its figures on them flatter it" in ran.out
        assert ("LEAKAGE: images without a patient number" in ran.out) == bool(arguments)
        found = json.loads((tmp_path / "out" / "agreement.json").read_text("utf-8"))
        assert (found["images"], found["patients"], len(found["notes"])) == (26, 20, 1 + len(arguments))
    (tmp_path / "never.toml").write_text(
        'name = "never"\n[[data]]\nmapping = "set/nih.toml"\njudged = false\n[network]\nimage_size = 224\n', "utf-8"
    )
    ran = cxrsearch(*judge, tmp_path / "never.toml")
    assert (ran.code, "0 images have a number in all" in ran.err) == (4, True), ran.err
