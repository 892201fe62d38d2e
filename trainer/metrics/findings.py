"""Retrieval judged on several findings at once, each known of some images and not of others.

A finding of an image is present (1), absent (0) or not known (-1); nothing is concluded from what is not known. The
query's own patient is left out. Intervals are of 95 %, by bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.statistics import Figure, Floats, figure, ratio, resampled
from trainer.metrics.neighbours import fold_of_each, in_random_order, mean_of_nearest, similarities
from trainer.metrics.probabilities import auc

NEIGHBOURS = 10
BOOTSTRAPS = 1000
# Queries with and without a finding below which its figures are not given.
FEWEST = 10


@dataclass(frozen=True)
class FindingsRetrieval:
    """What came of Q queries, over F findings.

    findings: their names.
    truth: (Q, F) int8, 1 present, 0 absent, -1 not known.
    owners: (Q,) patients.
    votes: (Q, F), the share of the ten nearest images that have the finding, of those of which it is known; weighted by
        similarity, NaN where of none.
    precision: (Q, F), the part of the ten nearest images that have it (P@10); NaN where the query has it not.
    average_precision: (Q, F), of the ranking of all images of which it is known; NaN where the query has it not.
    ndcg: (Q,), of the ten nearest, gain the Jaccard index of the findings of query and image.
    folds: (Q,) numbers; votes of different folds, whose galleries differ, are never compared.
    """

    findings: tuple[str, ...]
    truth: NDArray[np.int8]
    owners: NDArray[np.str_]
    votes: Floats
    precision: Floats
    average_precision: Floats
    ndcg: Floats
    folds: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_]) -> FindingsRetrieval:
        """Some of the queries."""
        rows = (self.truth, self.owners, self.votes, self.precision, self.average_precision, self.ndcg, self.folds)
        return FindingsRetrieval(self.findings, *(row[chosen] for row in rows))  # type: ignore[arg-type]

    def means(self) -> dict[str, float]:
        """``precision_at_10`` and ``map``, each the mean over the findings that any query has; 0 where none has."""
        found = {"precision_at_10": self.precision, "map": self.average_precision}
        columns = {
            name: [column[~np.isnan(column)].mean() for column in values.T if not np.isnan(column).all()]
            for name, values in found.items()
        }
        return {name: float(np.mean(means)) if means else 0.0 for name, means in columns.items()}

    def figures(self, seed: int = 0, rounds: int = BOOTSTRAPS) -> dict[str, Figure]:
        """``auc``, ``precision_at_10`` and ``map``, each the mean over the findings, ``ndcg_at_10``, and the AUC of
        each finding as ``auc/NAME``.

        A finding that fewer than FEWEST queries have, or have not, has no figure.
        """
        return {name: figure(series) for name, series in self.series(seed, rounds).items()}

    def series(self, seed: int = 0, rounds: int = BOOTSTRAPS) -> dict[str, Floats]:
        """What ``figures`` are of, each (1 + rounds,): the same patients are drawn for the same queries and seed."""
        weights = resampled(self.owners, rounds, seed)
        series: dict[str, Floats] = {}
        columns: dict[str, list[Floats]] = {"auc": [], "precision_at_10": [], "map": []}
        for number, name in enumerate(self.findings):
            known = (self.truth[:, number] >= 0) & ~np.isnan(self.votes[:, number])
            present = self.truth[known, number] == 1
            if min(present.sum(), (~present).sum()) < FEWEST:
                continue
            area = auc(self.votes[known, number], present, weights[:, known], self.folds[known])
            series[f"auc/{name}"] = area
            columns["auc"].append(area)
            columns["precision_at_10"].append(_mean(self.precision[:, number], weights))
            columns["map"].append(_mean(self.average_precision[:, number], weights))
        means = {name: np.nanmean(np.stack(found), axis=0) for name, found in columns.items() if found}
        means["ndcg_at_10"] = _mean(self.ndcg, weights)
        return means | series


def retrieve_findings(
    queries: NDArray[np.float32],
    truth: NDArray[np.int8],
    owners: NDArray[np.str_],
    findings: Sequence[str],
    gallery: tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.str_]] | None = None,
) -> FindingsRetrieval:
    """Search every query among the gallery's images of other patients; without a gallery, among the queries.

    queries: (Q, D) of unit length; truth: (Q, F); owners: (Q,). gallery: the same three of G images.
    """
    vectors, their_truth, whose = (queries, truth, owners) if gallery is None else gallery
    order = in_random_order(len(vectors))
    vectors, their_truth, whose = vectors[order], their_truth[order], whose[order]
    values = np.where(their_truth >= 0, their_truth, np.nan).astype(np.float64)
    shape = truth.shape
    votes, precision, average, ndcg = (np.full(size, np.nan) for size in (shape, shape, shape, shape[:1]))
    for block, score in similarities(queries, owners, vectors, whose):
        votes[block] = mean_of_nearest(score, values, NEIGHBOURS)
        ndcg[block] = _ndcg(score, truth[block], their_truth)
        for number in range(len(findings)):
            present = np.flatnonzero(truth[block, number] == 1)
            known = np.flatnonzero(their_truth[:, number] >= 0)
            if len(present) and len(known):
                of_finding = _precisions(score[np.ix_(present, known)], their_truth[known, number] == 1)
                rows = block.start + present
                precision[rows, number], average[rows, number] = of_finding
    folds = np.zeros(len(queries), dtype=np.int64)
    return FindingsRetrieval(tuple(findings), truth, owners, votes, precision, average, ndcg, folds)


def joined_findings(parts: Sequence[FindingsRetrieval]) -> FindingsRetrieval:
    """The queries of several folds as one."""
    names = ("truth", "owners", "votes", "precision", "average_precision", "ndcg")
    rows = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return FindingsRetrieval(parts[0].findings, **rows, folds=fold_of_each([part.owners for part in parts]))


def _precisions(score: Floats, has: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """P@10 and average precision of each row of ``score`` (B, G); NaN where a query finds nothing that has it."""
    order = np.argsort(-score, axis=1, kind="stable")
    allowed = np.isfinite(np.take_along_axis(score, order, axis=1))
    relevant = has[order] & allowed
    found = np.cumsum(relevant, axis=1)
    precision = found / np.arange(1, score.shape[1] + 1)
    depth = np.minimum(NEIGHBOURS, np.maximum(allowed.sum(axis=1), 1))
    answers = relevant.sum(axis=1)
    at_10 = relevant[:, :NEIGHBOURS].sum(axis=1) / depth
    average = ratio((precision * relevant).sum(axis=1), answers.astype(np.float64))
    return np.where(answers > 0, at_10, np.nan), average


def _ndcg(score: Floats, truth: NDArray[np.int8], their_truth: NDArray[np.int8]) -> Floats:
    """(B,) normalised discounted cumulative gain of the ten nearest (Jarvelin and Kekalainen, TOIS 2002).

    The gain is the Jaccard index of the findings that both images are known to have or not to have; 1 where neither has
    any of them. Images with no finding known in common are passed over.
    """
    known = (truth >= 0).astype(np.float32) @ (their_truth >= 0).astype(np.float32).T
    both = (truth == 1).astype(np.float32) @ (their_truth == 1).astype(np.float32).T
    only_query = (truth == 1).astype(np.float32) @ (their_truth == 0).astype(np.float32).T
    only_image = (truth == 0).astype(np.float32) @ (their_truth == 1).astype(np.float32).T
    union = both + only_query + only_image
    gain = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    allowed = np.where(known > 0, score, -np.inf)
    gain = np.where(np.isfinite(allowed), gain, 0.0)
    nearest = np.argsort(-allowed, axis=1, kind="stable")[:, :NEIGHBOURS]
    discount = 1 / np.log2(np.arange(2, nearest.shape[1] + 2))
    found = (np.take_along_axis(gain, nearest, axis=1) * discount).sum(axis=1)
    best = (-np.sort(-gain, axis=1)[:, : nearest.shape[1]] * discount).sum(axis=1)
    return ratio(found.astype(np.float64), best.astype(np.float64))


def _mean(values: Floats, weights: Floats) -> Floats:
    known = ~np.isnan(values)
    return ratio(weights[:, known] @ values[known], weights[:, known].sum(axis=1))
