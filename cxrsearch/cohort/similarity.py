"""How alike a whole cohort is to one image."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import Scalar
from cxrsearch.cohort.counts import Grouping, groups_of, in_order
from cxrsearch.store.contract import VectorStore

BINS = 24


@dataclass(frozen=True)
class Spread:
    """The similarities, -1..1, of a group's images: least, greatest, and quantiles by the part below them.

    histogram: images in each of BINS equal steps between the least and the greatest of all groups.
    """

    value: Scalar | None
    images: int
    patients: int
    quantiles: dict[float, float]
    histogram: tuple[int, ...]


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def spread(
    store: VectorStore, vector: NDArray[np.float32], expression: Expression | None, by: Grouping | None = None
) -> list[Spread]:
    """Of the cohort, or of each group of ``by`` in it, largest first or steps in their order.

    ``vector``: (D,), of unit length.

    An image with two values of ``by`` is in both groups.
    """
    fields = ["patient", *([by.field] if by is not None else [])]
    scores: dict[Scalar | None, list[float]] = defaultdict(list)
    patients: dict[Scalar | None, set[str]] = defaultdict(set)
    for point in store.scroll(expression, fields=fields, vectors=True):
        assert point.vector is not None
        groups = groups_of(point.payload, by) if by is not None else [None]
        for group in groups:
            scores[group].append(float(point.vector @ vector))
            patients[group].add(str(point.payload.get("patient", point.id)))
    if not scores:
        return []
    low, high = min(map(min, scores.values())), max(map(max, scores.values()))
    found = []
    for group, own in scores.items():
        quantiles = dict(zip(QUANTILES, np.quantile(own, QUANTILES).tolist(), strict=True))
        histogram = np.histogram(own, BINS, (low, max(high, low + 1e-9)))[0]
        found.append(Spread(group, len(own), len(patients[group]), quantiles, tuple(histogram.tolist())))
    if by is not None and by.step is not None:
        return sorted(found, key=lambda one: in_order(one.value))
    return sorted(found, key=lambda one: -one.images)
