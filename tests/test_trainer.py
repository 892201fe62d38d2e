"""Learning: metrics against a plain reading of their definitions, sampling, and a whole small run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrsearch.encoder import Encoder
from indexer.phantoms import write_cohort
from trainer.fit import Config, load_labelled, split_patients
from trainer.metrics import retrieval_metrics
from trainer.network import Architecture, Network
from trainer.sampling import class_batches, vary


def test_metrics_of_a_case_done_by_hand() -> None:
    angles = np.array([0.0, 0.01, 0.1, 0.25, 0.3])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    alone = retrieval_metrics(embeddings, ["a", "x", "a", "b", "a"], ["p", "p", "q", "r", "s"])
    # Query 0 sees (1 is its own patient) 2, 3, 4: a b a. R = 2, MAP@R (1/1 + 0)/2.
    # Query 2 sees 1, 0, 3, 4: x a b a, MAP@R (0 + 1/2)/2. Query 4 sees 3, 2, 1, 0: b a x a, the same.
    # Queries 1 and 3 have no other of their class.
    assert alone.queries == 3
    assert alone.precision_at_1 == pytest.approx(1 / 3)
    assert alone.map_at_r == pytest.approx((0.5 + 0.25 + 0.25) / 3)
    assert alone.r_precision == pytest.approx(0.5)


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=4, max_size=30),
    patients=st.integers(2, 8),
    seed=st.integers(0, 2**16),
)
def test_metrics_against_their_definitions(labels: list[str], patients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(labels), 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owner = [f"p{n}" for n in rng.integers(patients, size=len(labels))]
    firsts, precisions, averages = [], [], []
    for q in range(len(labels)):
        gallery = sorted(
            (i for i in range(len(labels)) if owner[i] != owner[q]), key=lambda i: -float(vectors[q] @ vectors[i])
        )
        right = [labels[i] == labels[q] for i in gallery]
        size = sum(right)
        if size:
            firsts.append(right[0])
            precisions.append(sum(right[:size]) / size)
            averages.append(sum(sum(right[: i + 1]) / (i + 1) for i in range(size) if right[i]) / size)
    found = retrieval_metrics(vectors, labels, owner)
    assert found.queries == len(firsts)
    if firsts:
        assert found.precision_at_1 == pytest.approx(np.mean(firsts))
        assert found.r_precision == pytest.approx(np.mean(precisions))
        assert found.map_at_r == pytest.approx(np.mean(averages))


def test_metrics_agree_with_pytorch_metric_learning() -> None:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = rng.integers(3, size=120)
    ours = retrieval_metrics(vectors, [str(label) for label in labels], [str(n) for n in range(120)])
    calculator = AccuracyCalculator(
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=lambda *_: None,  # the default one asks for faiss, and no clustering is compared
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        device=torch.device("cpu"),
    )
    theirs = calculator.get_accuracy(torch.from_numpy(vectors), torch.from_numpy(labels))
    assert ours.precision_at_1 == pytest.approx(theirs["precision_at_1"])
    assert ours.r_precision == pytest.approx(theirs["r_precision"])
    assert ours.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"])


def test_a_batch_has_every_class_and_no_patient_twice_while_there_are_enough() -> None:
    rng = np.random.default_rng(0)
    labels = [0] * 50 + [1] * 12
    patients = [f"a{n // 2}" for n in range(50)] + [f"b{n}" for n in range(12)]
    batches = list(class_batches(labels, patients, 6, rng))
    assert len(batches) == 9  # the largest class once: ceil(50 / 6)
    for batch in batches:
        assert sorted(labels[i] for i in batch) == [0] * 6 + [1] * 6
    first = batches[0]
    assert len({patients[i] for i in first}) == 12


def test_variation_keeps_shape_range_and_upright() -> None:
    images = torch.zeros(16, 1, 64, 64)
    images[:, :, :32] = 1.0
    varied = vary(images, torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 1
    assert bool((varied[:, :, 5:20].mean(dim=(1, 2, 3)) > varied[:, :, 44:59].mean(dim=(1, 2, 3))).all())
    again = vary(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(varied, again)


def test_the_split_keeps_patients_apart() -> None:
    patients = [f"p{n // 3}" for n in range(90)]
    validation, test = split_patients(patients, 0.2, seed=1)
    groups = [{p for p, m in zip(patients, mask, strict=True) if m} for mask in (validation, test, ~validation & ~test)]
    assert [len(group) for group in groups] == [6, 6, 18]
    assert not groups[0] & groups[1]
    assert not groups[2] & (groups[0] | groups[1])


def test_gradients_reach_every_weight_of_the_trunk() -> None:
    network = Network(Architecture(image_size=64, dimensions=16, layers=[1, 1, 1, 1], width=8))
    network(torch.rand(4, 1, 64, 64)).embedding[:, 0].sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == []


CONFIG = """
name = "small"
seed = 3
image_size = 64
dimensions = 16
layers = [1, 1, 1, 1]
width = 8
epochs = {epochs}
images_per_class = 6
held_out_part = 0.2

[[data]]
mapping = "set/dataset.toml"

[classes]
sick = ["Pneumonia", "COVID-19"]
well = ["No Finding"]
"""


@pytest.mark.slow
def test_a_whole_run_gives_a_model_that_indexes(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=45, size=96)
    (tmp_path / "config.toml").write_text(CONFIG.format(epochs=4))
    ran = cxrsearch("train", tmp_path / "config.toml", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text("utf-8"))
    assert card["seed"] == 3
    assert sum(card["images"].values()) == 60
    encoder = Encoder(tmp_path / "run" / "model")
    assert (encoder.card.image_size, encoder.card.dimensions) == (64, 16)
    indexed = cxrsearch("index", toml, "--index", tmp_path / "index", "--model", tmp_path / "run" / "model")
    assert indexed.out.startswith("60 indexed")


def test_seeds_make_a_run_repeat(tmp_path: Path) -> None:
    from trainer.fit import train

    write_cohort(tmp_path / "set", patients=24, size=80)
    (tmp_path / "config.toml").write_text(CONFIG.format(epochs=2))
    config = Config.load(tmp_path / "config.toml")
    data = load_labelled(config, tmp_path)
    losses = [[line["loss"] for line in train(config, data, lambda _: None).history] for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [("name = 'x'", "data: Field required"), ("name =", "cannot be read|configuration"), (None, "No such file")],
)
def test_a_wrong_configuration_says_what(cxrsearch: Run, tmp_path: Path, config: str | None, message: str) -> None:
    import re

    if config is not None:
        (tmp_path / "config.toml").write_text(config)
    ran = cxrsearch("train", tmp_path / "config.toml", "--out", tmp_path / "run")
    assert ran.code == 4
    assert re.search(message, ran.err)


def test_images_without_patients_teach_nothing(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=6, size=64)
    toml.write_text(toml.read_text("utf-8").replace('[patient]\ncolumn = "patient"\n', ""), "utf-8")
    (tmp_path / "config.toml").write_text(CONFIG.format(epochs=1))
    ran = cxrsearch("train", tmp_path / "config.toml", "--out", tmp_path / "run")
    assert ran.code == 4
    assert "fewer than two classes have images with a patient number" in ran.err
