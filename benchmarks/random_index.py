"""An index of random vectors with clinical facts, as large as a benchmark wants."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Field, FieldType
from cxrsearch.model_card import ModelCard
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.recall import settle

FIELDS = {
    field.name: field
    for field in (
        Field("site", FieldType.KEYWORD),
        Field("outcome", FieldType.KEYWORD),
        Field("finding", FieldType.KEYWORD, several=True),
        Field("age", FieldType.INTEGER),
        Field("icu", FieldType.BOOLEAN),
    )
}
_BATCH = 1_000


def unit_vectors(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, dimensions) float32 of unit length, uniform over the sphere: the hardest case for a graph."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def payloads(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([seed, 1])
    for number in range(count):
        yield {
            "dataset": "random",
            "path": f"{number:06d}.dcm",
            "patient": f"P{number // 2:06d}",
            "image_sha256": f"{number:064x}",
            "width": 2048,
            "height": 2500,
            "site": f"site {rng.integers(20)}",
            "outcome": ("discharged", "icu", "died")[rng.integers(3)],
            "finding": ["COVID-19", "ARDS"][: rng.integers(1, 3)],
            "age": int(rng.integers(18, 95)),
            "icu": bool(rng.integers(2)),
        }


def build(folder: Path, card: ModelCard, vectors: NDArray[np.float32]) -> None:
    """Write the index, one flushed batch after another, then optimised, as cxrsearch index does."""
    facts = IndexFacts(card.name, card.fingerprint, vectors.shape[1], FIELDS, {"random": DatasetFacts("r", "/archive")})
    store = EdgeStore.create(folder, facts)
    batch = []
    for number, payload in enumerate(payloads(len(vectors))):
        batch.append(Point(_id_of(number), payload, vectors[number]))
        if len(batch) == _BATCH or number == len(vectors) - 1:
            store.upsert(batch)
            batch = []
    settle(store)
    store.close()


def place_of(id: str) -> int:
    """Which of the vectors that the index was built of a point has."""
    return uuid.UUID(id).int - 1


def _id_of(place: int) -> str:
    return str(uuid.UUID(int=place + 1))
