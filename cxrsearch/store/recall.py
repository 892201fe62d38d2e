"""Builds the graph of a large index when a bulk job ends, and measures on the index itself what it misses.

Some of its own images are searched with, comparing with every point and by the graph ever more broadly: without a
filter, among about half of the images, among few by one fact and by two, and far down. The first breadth that finds
enough is kept.
"""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice

import numpy as np

from cxrsearch.clinical.expression import And, Compare, Equals, Expression
from cxrsearch.clinical.fields import FieldType, values_of
from cxrsearch.store.contract import Point, Scored, VectorStore
from cxrsearch.store.graph import EXACT, FARTHEST, Effort, Graph, has_int8, is_large

# The least part of the true neighbours that a graph has to find, of every kind of search.
ENOUGH = 0.99
# Points kept in view, from the fewest on.
BREADTHS = (64, 128, 256, 512, 1024)
# A graph is used only where it takes at most this part of the time of comparing with every point.
FASTER = 0.8
# Points in no graph, or gone from it, as a part of those in it: from here on it is built anew. Until then they are
# compared one by one, and building stays a small part of filling an index that grows in small steps.
GROWN = 0.2
# Images searched with: of their ten neighbours each, one that is missed is half a thousandth.
SAMPLED = 200
# Fewer than this say nothing.
_FEWEST = 20
# Neighbours that people look at.
_NEAREST = 10
# Scores are right to this: of equal ones either point is the neighbour.
_SAME = 2e-6
# The part of an index, from and to, that a filter for half of it, or for few, may leave.
_HALF, _FEW = (0.3, 0.7), (0.01, 0.15)


@dataclass(frozen=True)
class _Kind:
    """A kind of search: among which images, and how many neighbours."""

    name: str
    among: Expression | None
    limit: int


def settle(store: VectorStore) -> None:
    """Build the graph where the index has become large and has none, or one that it has outgrown; measure it where
    that was done, or the index has changed. Until then every point is compared."""
    images, facts = store.count(), store.facts
    if not is_large(images, facts.dimensions):
        store.optimise()
        _keep(store, None)
        return
    inside = store.in_graph()
    if abs(images - inside) > GROWN * inside:
        _keep(store, None)
        store.optimise(graph=True)
    graph = store.facts.graph
    if not store.in_graph():
        _keep(store, None)
    elif graph is None or not graph.is_of(images):
        _keep(store, measure(store))


def _keep(store: VectorStore, graph: Graph | None) -> None:
    if store.facts.graph != graph:
        store.declare(replace(store.facts, graph=graph))


def measure(store: VectorStore, seed: int = 0) -> Graph | None:
    """The least effort that finds enough in this index's graph; None where there are too few images to say."""
    points = _sample(store, seed)
    if len(points) < _FEWEST:
        return None
    kinds = [_Kind(f"{_NEAREST} of all", None, _NEAREST), _Kind(f"{FARTHEST} of all", None, FARTHEST)]
    filtered = [_Kind(f"{_NEAREST} of {name}", among, _NEAREST) for name, among in _filters(store, points).items()]
    true = {kind: _ask(store, points, kind, EXACT) for kind in (*kinds, *filtered)}
    exact_seconds = {kind: seconds for kind, (_, seconds) in true.items()}

    def made(effort: Effort, recalls: dict[_Kind, float], seconds: dict[_Kind, float]) -> Graph:
        return Graph(
            datetime.date.today().isoformat(),
            store.count(),
            len(points),
            effort,
            {kind.name: recall for kind, recall in recalls.items()},
            1000 * seconds[kinds[0]],
            1000 * exact_seconds[kinds[0]],
        )

    # Kinds that the first efforts did not come to count as failed.
    recalls: dict[_Kind, float] = dict.fromkeys((*kinds, *filtered), 0.0)
    seconds: dict[_Kind, float] = {}
    int8_first = (True, False) if has_int8(store.in_graph(), store.facts.dimensions) else (False,)
    for effort in (Effort(breadth, int8=int8) for int8 in int8_first for breadth in BREADTHS):
        for kind in (*kinds, *filtered):
            found, seconds[kind] = _ask(store, points, kind, effort)
            recalls[kind] = _recall(found, true[kind][0])
            if recalls[kind] < ENOUGH and effort.breadth != BREADTHS[-1]:
                break
        if min(recalls.values()) >= ENOUGH:
            near = [kind for kind in recalls if kind.limit == _NEAREST]
            is_faster = sum(seconds[kind] for kind in near) <= FASTER * sum(exact_seconds[kind] for kind in near)
            return made(effort if is_faster else EXACT, recalls, seconds)
    return made(EXACT, recalls, seconds)


def _sample(store: VectorStore, seed: int) -> list[Point]:
    """Some of the index's own points, the same ones each time."""
    images = store.count()
    chosen = set(np.random.default_rng(seed).permutation(images)[:SAMPLED].tolist())
    digests = {
        str(digest)
        for place, point in enumerate(store.scroll(fields=["image_sha256"]))
        if place in chosen
        for digest in values_of(point.payload, "image_sha256")
    }
    if not digests:
        return []
    return list(islice(store.scroll(Equals("image_sha256", tuple(sorted(digests))), vectors=True), SAMPLED))


def _filters(store: VectorStore, points: Sequence[Point]) -> dict[str, Expression]:
    """Filters that about half of the images meet, and few, by facts that they have, as searches ask for.

    Few also by two facts at once, which are searched otherwise (graph.Effort.to).
    """
    by_one = [one for one in _met(store, points) if len(one[1]) > 1]
    by_two = [
        (And((first, second)), both)
        for (first, some), (second, others) in combinations(by_one, 2)
        if 1 < len(both := some & others) <= min(len(some), len(others)) / 2
    ]
    chosen = {}
    for name, aim, (low, high), candidates in (
        ("half", 0.5, _HALF, by_one),
        ("few", 0.05, _FEW, by_one),
        ("few by two facts", 0.05, _FEW, by_two),
    ):
        shares = [(len(met) / len(points), repr(expression), expression) for expression, met in candidates]
        fitting = [one for one in shares if low <= one[0] <= high]
        if fitting:
            chosen[name] = min(fitting, key=lambda one: (abs(np.log(one[0] / aim)), one[1]))[2]
    return chosen


def _met(store: VectorStore, points: Sequence[Point]) -> list[tuple[Expression, set[int]]]:
    """Conditions on one fact, and which of the points meet each: every value of a keyword, the lower half of a
    number."""
    found: list[tuple[Expression, set[int]]] = []
    for name, field in store.facts.all_fields.items():
        values = [values_of(point.payload, name) for point in points]
        if field.type in (FieldType.KEYWORD, FieldType.BOOLEAN):
            holders = defaultdict(set)
            for place, of_point in enumerate(values):
                for value in of_point:
                    holders[value].add(place)
            found += [(Equals(name, (value,)), holding) for value, holding in holders.items()]
        elif field.type in (FieldType.INTEGER, FieldType.FLOAT) and any(values):
            middle = float(np.median([float(value) for of_point in values for value in of_point]))
            below = {place for place, some in enumerate(values) if any(float(value) <= middle for value in some)}
            found.append((Compare(name, "<=", middle), below))
    return found


def _ask(store: VectorStore, points: Sequence[Point], kind: _Kind, effort: Effort) -> tuple[list[list[Scored]], float]:
    """The neighbours of each point but itself, and the median of the seconds that finding them took."""
    found, seconds = [], []
    for point in points:
        assert point.vector is not None
        started = time.perf_counter()
        hits = store.query(point.vector, kind.limit, kind.among, effort.to(kind.limit, kind.among))
        seconds.append(time.perf_counter() - started)
        found.append([hit for hit in hits if hit.id != point.id])
    return found, float(np.median(seconds))


def _recall(found: Sequence[Sequence[Scored]], true: Sequence[Sequence[Scored]]) -> float:
    """The mean part of the true neighbours that were found. A point as near as the last of them is as good."""
    parts = [
        min(1.0, sum(hit.score >= neighbours[-1].score - _SAME for hit in hits) / len(neighbours))
        for hits, neighbours in zip(found, true, strict=True)
        if neighbours
    ]
    return float(np.mean(parts)) if parts else 1.0
