"""Whether neighbours agree with an image in a number, or in one number for each zone of the lungs.

The mean of the ten nearest images of other patients, weighted by similarity, is compared with the image's own score:
mean absolute difference, and Spearman's rank correlation, as scores of severity are ranks. Where the zones lie on two
sides, the difference of the sides is compared too: neighbours may agree how much disease there is and not where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cxrsearch.statistics import Figure, Floats, figure
from trainer.metrics.neighbours import mean_of_nearest, similarities

NEIGHBOURS = 10
# Rank correlations are computed anew for each, which takes longer than a weighted mean.
BOOTSTRAPS = 300


@dataclass(frozen=True)
class Agreement:
    """Of Q images and Z zones.

    zones: their names, those of the right lung first.
    scores: (Q, Z), the images' own.
    predicted: (Q, Z), the neighbours' weighted mean.
    owners: (Q,) patients.
    """

    zones: tuple[str, ...]
    scores: Floats
    predicted: Floats
    owners: NDArray[np.str_]

    def figures(self, seed: int = 0, rounds: int = BOOTSTRAPS) -> dict[str, Figure]:
        """``rank_correlation`` (-1..1) and ``absolute_difference`` (in the score's unit), means over the zones, and
        where there are several, ``side_correlation`` of the first half of the zones less the second."""
        rng = np.random.default_rng(seed)
        patients, owner = np.unique(self.owners, return_inverse=True)
        images = [np.flatnonzero(owner == number) for number in range(len(patients))]
        draws = [np.arange(len(self.owners))] + [
            np.concatenate([images[number] for number in rng.integers(len(patients), size=len(patients))])
            for _ in range(rounds)
        ]
        series: dict[str, list[float]] = {}
        for draw in draws:
            for name, value in self._figures(draw).items():
                series.setdefault(name, []).append(value)
        return {name: figure(np.array(values)) for name, values in series.items()}

    def _figures(self, draw: NDArray[np.int64]) -> dict[str, float]:
        scores, predicted = self.scores[draw], self.predicted[draw]
        correlations = [_correlation(predicted[:, zone], scores[:, zone]) for zone in range(scores.shape[1])]
        found = {
            "rank_correlation": float(np.mean(correlations)),
            "absolute_difference": float(np.abs(predicted - scores).mean()),
        }
        half = scores.shape[1] // 2
        if half:
            sides = [values[:, :half].sum(axis=1) - values[:, half:].sum(axis=1) for values in (predicted, scores)]
            found["side_correlation"] = _correlation(*sides)
        return found


def agreement(
    vectors: NDArray[np.float32], scores: Floats, owners: NDArray[np.str_], zones: Sequence[str]
) -> Agreement:
    """Every image against the others, its own patient left out.

    vectors: (Q, D) of unit length; scores: (Q, Z), all known; owners: (Q,).
    """
    predicted = np.empty_like(scores)
    for block, score in similarities(vectors, owners, vectors, owners):
        predicted[block] = mean_of_nearest(score, scores, NEIGHBOURS)
    return Agreement(tuple(zones), scores, predicted, owners)


def _correlation(first: Floats, second: Floats) -> float:
    """Spearman's; 0 where one of them is the same everywhere and so tells nothing."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second)[0])
