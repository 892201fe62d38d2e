"""Figures over several findings and over zones: against plain loops, and where they have to be what they are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from trainer.metrics.agreement import agreement
from trainer.metrics.findings import NEIGHBOURS, retrieve_findings

Floats = NDArray[np.float64]


def unit(vectors: Floats) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cases(seed: int, count: int = 120) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.str_]]:
    rng = np.random.default_rng(seed)
    truth = rng.choice([-1, 0, 0, 1], size=(count, 4)).astype(np.int8)
    vectors = unit(rng.normal(size=(count, 12)) + np.repeat(truth, 3, axis=1))
    owners = np.array([f"P{n // 2}" for n in range(count)])
    return vectors, truth, owners


def test_votes_precisions_and_areas_are_those_of_plain_loops() -> None:
    vectors, truth, owners = cases(0)
    found = retrieve_findings(vectors, truth, owners, ["a", "b", "c", "d"])
    similarity = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for finding in range(4):
        votes = []
        for query in range(len(vectors)):
            others = [n for n in range(len(vectors)) if owners[n] != owners[query] and truth[n, finding] >= 0]
            nearest = sorted(others, key=lambda n: -similarity[query, n])
            weight = np.array([max(similarity[query, n], 0) + 1e-9 for n in nearest[:NEIGHBOURS]])
            has = np.array([truth[n, finding] == 1 for n in nearest])
            votes.append(float((weight * has[:NEIGHBOURS]).sum() / weight.sum()))
            if truth[query, finding] == 1:
                assert found.precision[query, finding] == pytest.approx(has[:NEIGHBOURS].mean())
                expected = average_precision_score(has, [similarity[query, n] for n in nearest])
                assert found.average_precision[query, finding] == pytest.approx(expected)
            else:
                assert np.isnan(found.precision[query, finding])
        np.testing.assert_allclose(found.votes[:, finding], votes, rtol=1e-6)
        known = truth[:, finding] >= 0
        area = roc_auc_score(truth[known, finding] == 1, np.array(votes)[known])
        assert found.figures(rounds=5)[f"auc/{'abcd'[finding]}"].value == pytest.approx(area)


def test_ndcg_ranks_by_the_findings_that_two_images_share() -> None:
    vectors, truth, owners = cases(1, 40)
    truth = np.abs(truth)  # all known
    found = retrieve_findings(vectors, truth, owners, ["a", "b", "c", "d"])
    similarity = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for query in range(len(vectors)):
        others = [n for n in range(len(vectors)) if owners[n] != owners[query]]
        gains = []
        for n in others:
            union = ((truth[query] == 1) | (truth[n] == 1)).sum()
            gains.append(((truth[query] == 1) & (truth[n] == 1)).sum() / union if union else 1.0)
        expected = ndcg_score([gains], [similarity[query, others]], k=NEIGHBOURS)
        assert found.ndcg[query] == pytest.approx(expected, rel=1e-6)


def test_what_is_not_known_of_an_image_changes_no_figure() -> None:
    vectors, truth, owners = cases(2)
    plain = retrieve_findings(vectors, truth, owners, ["a", "b", "c", "d"])
    nothing = np.full((50, 4), -1, dtype=np.int8)
    others = unit(np.random.default_rng(3).normal(size=(50, 12)))
    more = (np.concatenate([vectors, others]), np.concatenate([truth, nothing]), np.append(owners, ["X"] * 50))
    found = retrieve_findings(vectors, truth, owners, ["a", "b", "c", "d"], more)
    np.testing.assert_allclose(found.votes, plain.votes)
    np.testing.assert_allclose(found.average_precision, plain.average_precision)
    np.testing.assert_allclose(found.ndcg, plain.ndcg)


def test_a_finding_that_few_images_have_has_no_figure() -> None:
    vectors, truth, owners = cases(4)
    truth[:, 3] = 0
    truth[:3, 3] = 1
    figures = retrieve_findings(vectors, truth, owners, ["a", "b", "c", "rare"]).figures(rounds=5)
    assert "auc/rare" not in figures
    assert figures["auc"].value == pytest.approx(np.mean([figures[f"auc/{name}"].value for name in "abc"]))


def test_neighbours_that_agree_in_zones_and_sides_correlate_and_strangers_do_not() -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 4, size=(150, 6)).astype(np.float64)
    owners = np.array([f"P{n}" for n in range(150)])
    zones = [f"zone_{name}" for name in "abcdef"]
    own = agreement(unit(scores - 1.5 + rng.normal(0, 0.1, scores.shape)), scores, owners, zones).figures(rounds=20)
    strangers = agreement(unit(rng.normal(size=scores.shape)), scores, owners, zones).figures(rounds=20)
    assert own["rank_correlation"].value > 0.8
    assert own["side_correlation"].value > 0.8
    assert own["absolute_difference"].value < strangers["absolute_difference"].value
    assert abs(strangers["rank_correlation"].value) < 0.15
    # Sides exchanged: as much disease, on the other side.
    mirrored = unit(np.roll(scores - 1.5, 3, axis=1))
    vectors = np.concatenate([unit(scores - 1.5), mirrored])
    whose = np.append(owners, [f"M{n}" for n in range(150)])
    both = agreement(vectors, np.concatenate([scores, scores]), whose, zones).figures(rounds=20)
    assert both["side_correlation"].value < own["side_correlation"].value - 0.3


def test_the_own_patient_gives_no_vote() -> None:
    vectors = unit(np.eye(4)[[0, 0, 1, 1]] + 0.01)
    truth = np.array([[1], [1], [0], [0]], dtype=np.int8)
    owners = np.array(["A", "A", "B", "B"])
    found = retrieve_findings(vectors, truth, owners, ["a"])
    assert found.votes[:2].tolist() == [[0.0], [0.0]]
