"""How near the images of an archive have each other: what tells a far query from a near one, and ranks a score.

Learnt at the end of every index run, from a few hundred images drawn at random: of each, the similarity to the nearest
image of another patient. Scores of two archives, or of two encoders, cannot be compared; their ranks here can.
"""

from __future__ import annotations

import datetime
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cxrsearch.clinical.expression import Equals, Expression
from cxrsearch.clinical.fields import values_of
from cxrsearch.clinical.identity import other_patients
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.contract import Point, VectorStore

# Images that are asked about: one part in a hundred is told apart, and an index of 100,000 takes some seconds.
SAMPLED = 300
# Fewer nearest pairs than this say nothing of an archive.
FEWEST = 20
# Percentage of the archive's own images that would be called far from everything.
FAR = 5
# Scores are right to this: an image of the archive is in one of the pairs, and is not nearer than itself.
_SAME = 2e-6


@dataclass(frozen=True)
class Nearness:
    """made: ISO date. images: how many the index had; sampled: how many of them were asked about. percentiles: 101, of
    their similarity, -1..1, to the nearest other patient."""

    made: str
    images: int
    sampled: int
    percentiles: tuple[float, ...]

    @property
    def novelty(self) -> float:
        """The least similarity at which a query counts as known territory."""
        return self.percentiles[FAR]

    def rank(self, score: float) -> float:
        """The part of the archive's nearest pairs, 0..1, that this score is nearer than."""
        return min(bisect_left(self.percentiles, score - _SAME), 100) / 100

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "percentiles": list(self.percentiles)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Nearness | None:
        """None where there is none. Raises IndexUnavailable for one that cannot be read."""
        if data is None:
            return None
        try:
            percentiles = tuple(map(float, data["percentiles"]))
            if (
                len(percentiles) != 101
                or not all(map(math.isfinite, percentiles))
                or list(percentiles) != sorted(percentiles)
            ):
                raise ValueError
            return cls(str(data["made"]), int(data["images"]), int(data["sampled"]), percentiles)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise IndexUnavailable("what the index learnt of its own scores is damaged; index it again") from None


def learn(store: VectorStore, seed: int = 0) -> Nearness | None:
    """None for an index of fewer than FEWEST nearest pairs."""
    pictures = sorted(map(str, store.values("picture")))
    chosen = np.random.default_rng(seed).permutation(pictures)[:SAMPLED].tolist()
    if len(chosen) < FEWEST:
        return None
    fields = ["patient", "image_sha256", "picture"]
    points = list(store.scroll(Equals("picture", tuple(chosen)), fields=fields, vectors=True))
    scores = []
    for point in points:
        assert point.vector is not None
        scores += [hit.score for hit in store.query(point.vector, 1, others(point))]
    if len(scores) < FEWEST:
        return None
    percentiles = np.quantile(scores, np.linspace(0, 1, 101))
    return Nearness(datetime.date.today().isoformat(), store.count(), len(scores), tuple(percentiles.tolist()))


def others(point: Point) -> Expression | None:
    """What a search with this image of the index would look among: all that is not its own patient's."""
    files, pictures, patients = (values_of(point.payload, name) for name in ("image_sha256", "picture", "patient"))
    return other_patients(list(map(str, files)), list(map(str, pictures)), list(map(str, patients)))
