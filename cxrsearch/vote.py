"""Hits -> how the neighbours' values of a field are spread, weighted by similarity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cxrsearch.clinical import Scalar, values_of
from cxrsearch.search import Hit


@dataclass(frozen=True)
class Share:
    """One value's part of the vote. weight: 0..1 of the similarity of the hits that have the field."""

    value: Scalar
    weight: float
    images: int
    patients: int


@dataclass(frozen=True)
class Vote:
    """shares: largest first; missing: hits that do not have the field and have no say."""

    field: str
    shares: tuple[Share, ...]
    missing: int


def count(hits: Sequence[Hit], field: str) -> Vote:
    """Each hit votes for its value (in equal parts for its values) with its similarity, if above zero.

    Images without a patient number each count as one patient.
    """
    weights: dict[Scalar, float] = defaultdict(float)
    images: dict[Scalar, int] = defaultdict(int)
    patients: dict[Scalar, set[str]] = defaultdict(set)
    missing = 0
    for hit in hits:
        values = values_of(hit.payload, field)
        missing += not values
        for value in values:
            weights[value] += max(hit.score, 0.0) / len(values)
            images[value] += 1
            patients[value].add(str(hit.payload.get("patient", f"rank {hit.rank}")))
    total = sum(weights.values())
    shares = [
        Share(value, weight / total if total else 0.0, images[value], len(patients[value]))
        for value, weight in weights.items()
    ]
    return Vote(field, tuple(sorted(shares, key=lambda share: (-share.weight, str(share.value)))), missing)
