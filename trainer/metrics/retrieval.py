"""Retrieval metrics by exact search, each query's own patient left out of its gallery.

Definitions follow Musgrave et al., "A Metric Learning Reality Check" (ECCV 2020, arXiv 2003.08505) for R-precision
and MAP@R. A query none of whose class is left in its gallery has no answer and is not counted. Intervals are of 95 %,
by bootstrap over patients (percentiles): images of one patient are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxrsearch.statistics import Figure, Floats, ece, figure, ratio, resampled
from trainer.metrics.neighbours import fold_of_each, in_random_order, mean_of_nearest
from trainer.metrics.probabilities import auc

NEIGHBOURS = 10
DEPTHS = (1, 5, 10)
BOOTSTRAPS = 1000
# Queries compared with the whole gallery at once.
_BLOCK = 1024


@dataclass(frozen=True)
class Retrieval:
    """What came of Q queries.

    labels: (Q,) class numbers; owners: (Q,) patients. values: a metric's name -> (Q,), each in 0..1, NaN where the
    query has no answer. votes: (Q, C), the classes' shares of the ten nearest, weighted by similarity.
    neighbours: (Q, 10) numbers of gallery images, nearest first (-1 where there are fewer); scores: (Q, 10).
    folds: (Q,) numbers; votes of different folds, whose galleries differ, are never compared.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    owners: NDArray[np.str_]
    values: dict[str, Floats]
    votes: Floats
    neighbours: NDArray[np.int64]
    scores: Floats
    folds: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.votes.argmax(axis=1), dtype=np.int64)

    def means(self) -> dict[str, float]:
        """The mean of every metric over the queries that have an answer; 0 where none has."""
        known = {name: values[~np.isnan(values)] for name, values in self.values.items()}
        return {name: float(values.mean()) if len(values) else 0.0 for name, values in known.items()}

    def part(self, chosen: NDArray[np.bool_]) -> Retrieval:
        """Some of the queries."""
        return Retrieval(
            self.classes,
            self.labels[chosen],
            self.owners[chosen],
            {name: values[chosen] for name, values in self.values.items()},
            self.votes[chosen],
            self.neighbours[chosen],
            self.scores[chosen],
            self.folds[chosen],
        )

    def figures(self, seed: int = 0, rounds: int = BOOTSTRAPS) -> dict[str, Figure]:
        """Every metric, with per-class ``sensitivity/C``, ``ppv/C``, ``auc/C`` and macro averages of these."""
        return {name: figure(series) for name, series in self.series(seed, rounds).items()}

    def series(self, seed: int = 0, rounds: int = BOOTSTRAPS) -> dict[str, Floats]:
        """What ``figures`` are of, each (1 + rounds,): the same patients are drawn for the same queries and seed."""
        weights = resampled(self.owners, rounds, seed)
        found: dict[str, Floats] = {}
        for name, values in self.values.items():
            known = ~np.isnan(values)
            if known.any():
                found[name] = ratio(weights[:, known] @ values[known], weights[:, known].sum(axis=1))
        return found | self._by_class(weights)

    def _by_class(self, weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for number, name in enumerate(self.classes):
            mine, voted = self.labels == number, self.predicted == number
            both = weights[:, mine & voted].sum(axis=1)
            found[f"sensitivity/{name}"] = ratio(both, weights[:, mine].sum(axis=1))
            found[f"ppv/{name}"] = ratio(both, weights[:, voted].sum(axis=1))
            found[f"auc/{name}"] = auc(self.votes[:, number], mine, weights, self.folds)
        for kind in ("sensitivity", "ppv", "auc"):
            # A class that nobody has, or that is never predicted, has no such figure.
            rows = np.stack([found[f"{kind}/{name}"] for name in self.classes])
            known = ~np.isnan(rows)
            found[f"macro_{kind}"] = ratio(np.where(known, rows, 0).sum(axis=0), known.sum(axis=0))
        return found


def retrieve(
    queries: NDArray[np.float32],
    labels: NDArray[np.int64],
    owners: NDArray[np.str_],
    classes: Sequence[str],
    gallery: tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_]] | None = None,
    likeness: Literal["cosine", "distance"] = "cosine",
) -> Retrieval:
    """Search every query among the gallery's images of other patients; without a gallery, among the queries.

    queries: (Q, D); gallery: (G, D), its labels and its owners. cosine wants unit length; distance is Euclidean and
    makes 1 / (1 + d) the score.
    """
    vectors, their, whose = (queries, labels, owners) if gallery is None else gallery
    order = in_random_order(len(vectors))
    vectors, their, whose = vectors[order], their[order], whose[order]
    parts = []
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        score = _likeness(queries[block], vectors, likeness)
        score[owners[block][:, None] == whose[None, :]] = -np.inf
        parts.append(_judge(score, labels[block], their, len(classes)))
    values = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    votes, near, scores = (np.concatenate([part[n] for part in parts]) for n in (1, 2, 3))
    neighbours = np.where(near < 0, -1, order[near])
    return Retrieval(
        tuple(classes), labels, owners, values, votes, neighbours, scores, np.zeros(len(labels), dtype=np.int64)
    )


def joined(parts: Sequence[Retrieval]) -> Retrieval:
    """The queries of several folds as one."""
    first, names = parts[0], ("labels", "owners", "votes", "neighbours", "scores")
    rows = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in first.values}
    return Retrieval(first.classes, values=values, folds=fold_of_each([part.owners for part in parts]), **rows)


def constant(labels: NDArray[np.int64], owners: NDArray[np.str_], classes: Sequence[str], shares: Floats) -> Retrieval:
    """Every query is answered with the same ``shares`` (C,) of the classes, and finds nothing."""
    votes = np.tile(shares, (len(labels), 1))
    nothing = np.full((len(labels), NEIGHBOURS), -1)
    right = (votes.argmax(axis=1) == labels).astype(np.float64)
    values, folds = {"vote_accuracy": right}, np.zeros(len(labels), dtype=np.int64)
    return Retrieval(tuple(classes), labels, owners, values, votes, nothing, nothing.astype(float), folds)


def calibration(retrieval: Retrieval, bins: int = 10) -> tuple[list[tuple[float, float, int]], float]:
    """Whether a vote's share is how often it is right: (mean share, part that is right, queries) of each bin of equal
    width, and the expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599)."""
    share, right = retrieval.votes.max(axis=1), retrieval.predicted == retrieval.labels
    place = np.minimum((share * bins).astype(int), bins - 1)
    rows = [
        (float(share[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    ]
    return rows, float(ece(share, right, np.ones((1, len(share))))[0])


def _likeness(queries: NDArray[np.float32], gallery: NDArray[np.float32], kind: str) -> Floats:
    product: Floats = queries.astype(np.float64) @ gallery.astype(np.float64).T
    if kind == "cosine":
        return product
    squares = (queries**2).sum(axis=1)[:, None] + (gallery**2).sum(axis=1)[None, :]
    return np.asarray(1 / (1 + np.sqrt(np.maximum(squares - 2 * product, 0))), dtype=np.float64)


def _judge(
    score: Floats, labels: NDArray[np.int64], gallery: NDArray[np.int64], classes: int
) -> tuple[dict[str, Floats], Floats, NDArray[np.int64], Floats]:
    """score (Q, G), -inf for what a query may not find."""
    order = np.argsort(-score, axis=1, kind="stable")
    ranked = np.take_along_axis(score, order, axis=1)
    allowed = np.isfinite(ranked)
    relevant = (gallery[order] == labels[:, None]) & allowed
    ranks = np.arange(1, score.shape[1] + 1)
    found, answers = np.cumsum(relevant, axis=1), relevant.sum(axis=1)
    precision = found / ranks
    answered = answers > 0
    size = np.maximum(answers, 1)
    within = ranks[None, :] <= size[:, None]
    values: dict[str, Floats] = {}
    for k in DEPTHS:
        depth = np.minimum(k, np.maximum(allowed.sum(axis=1), 1))
        values[f"precision_at_{k}"] = relevant[:, :k].sum(axis=1) / depth
        if k > 1:
            values[f"hit_rate_at_{k}"] = relevant[:, :k].any(axis=1).astype(np.float64)
            values[f"map_at_{k}"] = (precision[:, :k] * relevant[:, :k]).sum(axis=1) / np.minimum(size, k)
    values["r_precision"] = (relevant & within).sum(axis=1) / size
    values["map_at_r"] = (precision * (relevant & within)).sum(axis=1) / size
    nearest, scores = order[:, :NEIGHBOURS], ranked[:, :NEIGHBOURS]
    votes = np.nan_to_num(mean_of_nearest(score, np.eye(classes)[gallery], NEIGHBOURS))
    values["vote_accuracy"] = (votes.argmax(axis=1) == labels).astype(np.float64)
    values = {name: np.where(answered, value, np.nan) for name, value in values.items()}
    missing = NEIGHBOURS - nearest.shape[1]
    nearest = np.pad(np.where(np.isfinite(scores), nearest, -1), ((0, 0), (0, missing)), constant_values=-1)
    return values, votes, nearest, np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
