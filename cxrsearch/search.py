"""Image(s) -> hits: read, embed, filter, ask the index; the query's own patient left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch import radiograph
from cxrsearch.clinical import ROW_HASH, Payload
from cxrsearch.encoder import Encoder
from cxrsearch.identity import Identity
from cxrsearch.radiograph import Radiograph
from cxrsearch.store.contract import VectorStore
from cxrsearch.where import And, Equals, Expression, Not


@dataclass(frozen=True)
class Hit:
    """A neighbour: score is the cosine similarity, -1..1; payload its clinical facts."""

    rank: int
    score: float
    payload: Payload


@dataclass(frozen=True)
class Query:
    """The image that was asked for. ``indexed``: this very file is in the index; ``left_out``: the
    pseudonyms whose images were not considered; ``embedding``: (D,), of unit length."""

    path: Path
    indexed: bool
    left_out: tuple[str, ...]
    embedding: NDArray[np.float32] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Result:
    query: Query
    hits: list[Hit]


def search(
    paths: Sequence[Path],
    store: VectorStore,
    encoder: Encoder,
    identity: Identity | None,
    expression: Expression | None = None,
    limit: int = 10,
    same_patient: bool = False,
) -> list[Result]:
    """The ``limit`` most similar radiographs of the index to each image.

    A query's patient is known when its file is in the index, or from the DICOM header when there is
    a pseudonym key; its images, and the image itself, are left out unless ``same_patient``.
    A file of several radiographs is searched by each; behind the first, ``path#2`` and so on.
    Raises ImageError for an image that cannot be read.
    """
    shown = [
        (path if image.frame == 1 else path.with_name(f"{path.name}#{image.frame}"), image)
        for path in paths
        for image in radiograph.read(path, ("PatientID",))
    ]
    vectors = encoder.embed([radiograph.canonical(image, encoder.card.image_size) for _, image in shown])
    results = []
    for (path, image), vector in zip(shown, vectors, strict=True):
        same_file = Equals("image_sha256", (image.sha256,))
        own = [point.payload for point in store.scroll(same_file, fields=["patient"])]
        patients = _patients(own, store, image, identity)
        wanted = expression
        if not same_patient:
            others = [Not(same_file)] + ([Not(Equals("patient", tuple(sorted(patients))))] if patients else [])
            wanted = And((*others, *([expression] if expression is not None else [])))
        found = store.query(vector, limit, wanted)
        hits = [
            Hit(rank, hit.score, {name: value for name, value in hit.payload.items() if name != ROW_HASH})
            for rank, hit in enumerate(found, start=1)
        ]
        left_out = () if same_patient else tuple(sorted(patients))
        results.append(Result(Query(path, bool(own), left_out, vector), hits))
    return results


def _patients(own: Sequence[Payload], store: VectorStore, image: Radiograph, identity: Identity | None) -> set[str]:
    """Pseudonyms of the query's patient, under every namespace of the index's datasets."""
    known = {str(payload["patient"]) for payload in own if "patient" in payload}
    if identity is not None and "PatientID" in image.header:
        namespaces = {dataset.namespace for dataset in store.facts.datasets.values()}
        known |= {identity.patient(namespace, image.header["PatientID"].strip()) for namespace in namespaces}
    return known
