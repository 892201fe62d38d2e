"""Retrieval metrics, each query's own patient left out of its gallery.

Definitions follow Musgrave et al., "A Metric Learning Reality Check" (ECCV 2020, arXiv 2003.08505)
for R-precision and MAP@R. A query none of whose class is left in its gallery has no answer and is
not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RetrievalMetrics:
    """Means over the queries, each in 0..1. ``queries``: how many had an answer to find.

    precision_at_1: part of queries whose nearest neighbour has the query's label.
    r_precision: part of the R nearest with the query's label, R being how many there are in the gallery.
    map_at_r: the same, each place weighted by the precision up to it; right places first.
    vote_accuracy: part of queries whose ten nearest neighbours, weighted by similarity, give its label.
    """

    queries: int
    precision_at_1: float
    r_precision: float
    map_at_r: float
    vote_accuracy: float


def retrieval_metrics(
    embeddings: NDArray[np.float32], labels: Sequence[str], patients: Sequence[str], neighbours: int = 10
) -> RetrievalMetrics:
    """Exact leave-one-patient-out retrieval.

    embeddings: (N, D) float32 of unit length; labels and patients: N each.
    """
    label = np.unique(np.asarray(labels), return_inverse=True)[1]
    patient = np.asarray(patients)
    similarity = embeddings @ embeddings.T
    similarity[patient[:, None] == patient[None, :]] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")
    found: list[tuple[float, float, float, float]] = []
    for query in range(len(label)):
        ranked = order[query][np.isfinite(similarity[query, order[query]])]
        relevant = label[ranked] == label[query]
        size = int(relevant.sum())
        if size == 0:
            continue
        top = relevant[:size]
        precision = np.cumsum(top) / np.arange(1, size + 1)
        nearest = ranked[:neighbours]
        votes = np.bincount(label[nearest], weights=np.maximum(similarity[query, nearest], 0.0) + 1e-9)
        found.append(
            (
                float(relevant[0]),
                float(top.mean()),
                float((precision * top).mean()),
                float(votes.argmax() == label[query]),
            )
        )
    if not found:
        return RetrievalMetrics(0, 0.0, 0.0, 0.0, 0.0)
    means = np.mean(found, axis=0)
    return RetrievalMetrics(len(found), *(float(value) for value in means))
