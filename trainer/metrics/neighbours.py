"""The nearest images of other patients, by exact search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cxrsearch.statistics import Floats

# Queries compared with the whole gallery at once.
_BLOCK = 512
_SEED = 0


def in_random_order(count: int) -> NDArray[np.int64]:
    """(count,) the numbers of gallery images in an order that says nothing of their class, the same at every call.

    Of images that are equally near the first is ranked first, and in the order of their files those are of one class.
    """
    return np.random.default_rng(_SEED).permutation(count)


def fold_of_each(owners: Sequence[NDArray[np.str_]]) -> NDArray[np.int64]:
    """(Q,) the number of the fold that each query is of. owners: of the queries of each fold."""
    return np.repeat(np.arange(len(owners)), [len(one) for one in owners])


def similarities(
    queries: NDArray[np.float32],
    owners: NDArray[np.str_],
    gallery: NDArray[np.float32],
    gallery_owners: NDArray[np.str_],
) -> Iterator[tuple[slice, Floats]]:
    """Blocks of queries with their cosine similarities, (B, G); minus infinity for images of the query's own patient.

    queries: (Q, D) and gallery: (G, D), of unit length; owners: the patient of each.
    """
    vectors = gallery.astype(np.float64).T
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        score: Floats = queries[block].astype(np.float64) @ vectors
        score[owners[block][:, None] == gallery_owners[None, :]] = -np.inf
        yield block, score


def mean_of_nearest(score: Floats, values: Floats, count: int) -> Floats:
    """(B, V): the mean of ``values`` (G, V) over each query's ``count`` nearest images that have one, weighted by
    similarity; NaN where none has.

    score: (B, G), minus infinity for what a query may not find. values: NaN where not known. Images whose value is not
    known are passed over, column by column, so that every mean is of ``count`` images where there are so many.
    """
    found = np.full((len(score), values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        known = np.flatnonzero(~np.isnan(values[:, column]))
        if not len(known):
            continue
        near = min(count, len(known))
        among = score[:, known]
        nearest = np.argpartition(-among, near - 1, axis=1)[:, :near]
        similarity = np.take_along_axis(among, nearest, axis=1)
        weight = np.where(np.isfinite(similarity), np.maximum(similarity, 0.0) + 1e-9, 0.0)
        total = weight.sum(axis=1)
        mean = (weight * values[known, column][nearest]).sum(axis=1)
        np.divide(mean, total, out=found[:, column], where=total > 0)
    return found
