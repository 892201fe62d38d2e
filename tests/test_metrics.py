"""Retrieval metrics against plain readings of their definitions, pytorch-metric-learning and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.metrics.retrieval import calibration, constant, joined, retrieve


def unit(rng: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float32]:
    vectors = rng.normal(size=(count, dimensions)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_a_case_done_by_hand() -> None:
    angles = np.array([0.0, 0.01, 0.1, 0.25, 0.3])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels, owners = np.array([0, 2, 0, 1, 0]), np.array(["p", "p", "q", "r", "s"])
    found = retrieve(embeddings, labels, owners, "abx")
    # Query 0 sees (1 is its own patient) 2, 3, 4: a b a. R = 2, MAP@R (1/1 + 0)/2.
    # Query 2 sees 1, 0, 3, 4: x a b a, MAP@R (0 + 1/2)/2. Query 4 sees 3, 2, 1, 0: b a x a, the same.
    # Queries 1 and 3 have no other of their class.
    means = found.means()
    assert np.isnan(found.values["map_at_r"]).tolist() == [False, True, False, True, False]
    assert means["precision_at_1"] == pytest.approx(1 / 3)
    assert means["map_at_r"] == pytest.approx((0.5 + 0.25 + 0.25) / 3)
    assert means["r_precision"] == pytest.approx(0.5)
    assert means["hit_rate_at_5"] == 1
    # mAP@10: query 0 at ranks 1, 3: (1 + 2/3)/2; queries 2 and 4 at ranks 2, 4: (1/2 + 2/4)/2.
    assert means["map_at_10"] == pytest.approx((5 / 6 + 0.5 + 0.5) / 3)
    assert found.neighbours[0].tolist() == [2, 3, 4] + [-1] * 7


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=30), patients=st.integers(2, 8), seed=st.integers(0, 2**16)
)
def test_against_their_definitions(labels: list[int], patients: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng, len(labels), 6)
    owner = np.array([f"p{n}" for n in rng.integers(patients, size=len(labels))])
    found = retrieve(vectors, np.array(labels), owner, "abc")
    for q in range(len(labels)):
        gallery = sorted(
            (i for i in range(len(labels)) if owner[i] != owner[q]), key=lambda i: -float(vectors[q] @ vectors[i])
        )
        right = [labels[i] == labels[q] for i in gallery]
        size = sum(right)
        got = {name: values[q] for name, values in found.values.items()}
        if not size:
            assert all(np.isnan(value) for value in got.values())
            continue
        assert got["precision_at_1"] == right[0]
        assert got["precision_at_5"] == pytest.approx(sum(right[:5]) / len(right[:5]))
        assert got["hit_rate_at_5"] == any(right[:5])
        assert got["r_precision"] == pytest.approx(sum(right[:size]) / size)
        terms = [sum(right[: i + 1]) / (i + 1) for i in range(size) if right[i]]
        assert got["map_at_r"] == pytest.approx(sum(terms) / size)


def test_agree_with_pytorch_metric_learning_where_definitions_coincide() -> None:
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rng = np.random.default_rng(0)
    queries, archive = unit(rng, 90, 8), unit(rng, 120, 8)
    asked, known = rng.integers(3, size=90), rng.integers(3, size=120)
    owners, theirs = np.array([f"q{n}" for n in range(90)]), np.array([f"g{n}" for n in range(120)])
    calculator = AccuracyCalculator(
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=lambda *_: None,  # the default one asks for faiss, and no clustering is compared
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        device=torch.device("cpu"),
    )
    for gallery in (None, (archive, known, theirs)):
        ours = retrieve(queries, asked, owners, "abc", gallery).means()
        references = () if gallery is None else (torch.from_numpy(archive), torch.from_numpy(known))
        given = calculator.get_accuracy(torch.from_numpy(queries), torch.from_numpy(asked), *references)
        assert ours["precision_at_1"] == pytest.approx(given["precision_at_1"])
        assert ours["r_precision"] == pytest.approx(given["r_precision"])
        assert ours["map_at_r"] == pytest.approx(given["mean_average_precision_at_r"])


def test_class_figures_agree_with_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, precision_score, roc_auc_score

    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=150)
    vectors = unit(rng, 150, 5) + 0.6 * np.eye(5, dtype=np.float32)[labels]
    found = retrieve(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels, np.arange(150).astype(str), "abc"
    )
    figures = found.figures(rounds=20)
    for number, name in enumerate("abc"):
        assert figures[f"auc/{name}"].value == pytest.approx(roc_auc_score(labels == number, found.votes[:, number]))
        ppv = precision_score(labels == number, found.predicted == number)
        assert figures[f"ppv/{name}"].value == pytest.approx(ppv)
    assert figures["macro_sensitivity"].value == pytest.approx(balanced_accuracy_score(labels, found.predicted))


def test_intervals_widen_when_images_belong_to_few_patients() -> None:
    rng = np.random.default_rng(2)
    values = np.repeat(rng.random(20) < 0.5, 10).astype(float)  # all images of a patient are alike
    labels = np.tile([0, 1], 100)

    def width(owners: NDArray[np.str_]) -> float:
        found = constant(labels, owners, "ab", np.array([0.5, 0.5]))
        found.values["vote_accuracy"] = values
        figure = found.figures()["vote_accuracy"]
        assert figure.low < figure.value < figure.high
        return figure.high - figure.low

    few, many = width(np.repeat(np.arange(20), 10).astype(str)), width(np.arange(200).astype(str))
    assert few > 2 * many  # sqrt(10) where patients are all alike


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        means = rng.normal(0.5, 0.15, size=40).clip(0, 1)  # patients differ
        values = (rng.random((40, 4)) < means[:, None]).astype(float).ravel()
        found = constant(np.tile([0, 1], 80), np.repeat(np.arange(40), 4).astype(str), "ab", np.array([0.5, 0.5]))
        found.values["vote_accuracy"] = values
        figure = found.figures(rounds=300)["vote_accuracy"]
        held += figure.low <= 0.5 <= figure.high
    assert 0.90 <= held / 200 <= 0.99


def test_folds_are_joined_query_by_query() -> None:
    rng = np.random.default_rng(4)
    parts = [
        retrieve(unit(rng, 20, 4), rng.integers(2, size=20), np.array([f"{f}-{n}" for n in range(20)]), "ab")
        for f in range(2)
    ]
    whole = joined(parts)
    assert whole.means()["map_at_r"] == pytest.approx(
        np.nanmean(np.concatenate([part.values["map_at_r"] for part in parts]))
    )
    assert len(whole.neighbours) == 40


def test_votes_of_two_folds_are_not_compared() -> None:
    """Two hospitals, each left out in turn: of who is given the shares of the other, nothing is known."""
    labels = [np.repeat([0, 1], [2, 8]), np.repeat([0, 1], [8, 2])]
    parts = [
        constant(own, np.array([f"{fold}-{n}" for n in range(10)]), "ab", np.bincount(other) / 10)
        for fold, (own, other) in enumerate([labels, labels[::-1]])
    ]
    assert joined(parts).figures(rounds=20)["macro_auc"].value == 0.5


def test_of_images_that_are_equally_near_none_comes_first_for_its_class() -> None:
    alike = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (300, 1))
    owners = np.arange(300).astype(str)
    for labels in (np.repeat([0, 1, 2], 100), np.tile([0, 1, 2], 100)):
        means = retrieve(alike, labels, owners, "abc").means()
        assert means["vote_accuracy"] == pytest.approx(1 / 3, abs=0.05)
        assert means["map_at_r"] < 0.15


def test_a_vote_that_is_always_sure_and_half_right_is_not_calibrated() -> None:
    found = constant(np.array([0, 1] * 50), np.arange(100).astype(str), "ab", np.array([1.0, 0.0]))
    rows, error = calibration(found)
    assert rows == [(1.0, 0.5, 100)]
    assert error == pytest.approx(0.5)
