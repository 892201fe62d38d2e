"""The same radiograph twice in one index, by perceptual hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cxrsearch.clinical.fields import Payload
from cxrsearch.imaging.canonical import filled
from cxrsearch.imaging.perceptual_hash import NEAR, bits_between, crop_hashes
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.graph import Graph, used
from cxrsearch.store.images import StoredImages

_PIXELS = 256  # of the pictures that are hashed, before crops are taken
# Nearest images of each that are compared with it.
_NEIGHBOURS = 10
# Images less alike than this to the encoder are not compared: of copies that were only compressed or made small, one in
# twenty is, and so is the nearest stranger of most images (benchmarks/near_duplicates.py).
CANDIDATE = 0.88


@dataclass(frozen=True)
class DuplicatePair:
    """Two indexed images. bits: in how many of BITS they differ; score: cosine similarity; kind: how bad it is."""

    first: Payload
    second: Payload
    bits: int
    score: float
    kind: str


KINDS = ("two patients, two sites", "two patients", "patient unknown", "one patient")


def pairs(store: VectorStore) -> tuple[list[DuplicatePair], int, Graph | None]:
    """Near-identical pairs of an index, those across patients and sites first; how many images have no picture here;
    and the graph that found what was compared, None where every image was looked at.

    Each image is compared with the nearest by its embedding, by perceptual hash.
    """
    wanted = _NEIGHBOURS + 1  # the image itself is among them
    images, kept = StoredImages(store), {}
    unseen = 0
    points = {point.id: point for point in store.scroll(vectors=True)}
    for id, point in points.items():
        image = images.hit_image(id, point.payload, _PIXELS, quick=True)
        if image is None:
            unseen += 1
        else:
            kept[id] = crop_hashes(filled(image.canonical, image.width, image.height)).astype(np.int8)
    found: dict[tuple[str, str], DuplicatePair] = {}
    for id, point in points.items():
        assert point.vector is not None
        for near in store.query(point.vector, wanted) if id in kept else []:
            both = (min(id, near.id), max(id, near.id))
            if near.id == id or near.score < CANDIDATE or near.id not in kept or both in found:
                continue
            bits = bits_between(kept[id].astype(np.float32), kept[near.id].astype(np.float32))
            if bits <= NEAR:
                first, second = (points[one].payload for one in both)
                found[both] = DuplicatePair(first, second, bits, near.score, kind(first, second))
    in_order = sorted(found.values(), key=lambda pair: (KINDS.index(pair.kind), pair.bits))
    return in_order, unseen, used(store.facts.graph, wanted)


def kind(first: Mapping[str, object], second: Mapping[str, object]) -> str:
    """One of KINDS."""
    patients, sites = ([payload.get(name) for payload in (first, second)] for name in ("patient", "site"))
    if None in patients:
        return "patient unknown"
    if patients[0] == patients[1]:
        return "one patient"
    return KINDS[0] if None not in sites and sites[0] != sites[1] else KINDS[1]
