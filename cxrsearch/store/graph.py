"""How an index finds the nearest points: by comparing with every one, or by a graph whose misses were measured.

A graph (HNSW: Malkov and Yashunin 2016) answers sooner and misses some neighbours; how many depends on the archive. So
recall.py measures it on the archive itself, and what it found is kept with the index and said with every answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cxrsearch.clinical.expression import Expression, named

# KB of float32 vectors from which on a graph is built: 100,000 images of 256 dimensions, 200,000 of 128. Of fewer,
# comparing with every one (some 3 ms per 50 MB, up to four times a search) is over before a person notices it (0.1 s),
# and misses nothing. Of more, opening an index without a graph takes long, as its indexes of facts are read whole:
# 100,000 of 128 dimensions took 0.52 s of processor time and 425 MiB, with a graph 0.15 s and 122 MiB.
EXACT_BELOW_KB = 100_000
# The shape of a graph: edges of a point, and points looked at to find them.
EDGES, LOOKED_AT = 16, 100
# Filters that leave less than this many KB of vectors are answered by comparing with what they leave: of two facts that
# left 17 MB of a million points, that took as long as ACORN, and the graph without it missed an eighth of the
# neighbours (docs/reference/benchmarks.md).
FILTERED_EXACT_BELOW_KB = 20_000
# KB of float32 vectors from which on a graph is walked by int8 copies of them: four million images of 256 dimensions.
# The walk reads some thousands of vectors at places that nothing foretells, so it is quick only while all of them stay
# in memory; 4 GiB are half of what a small machine has, and int8 is a quarter of it. Of fewer, int8 would only miss.
INT8_FROM_KB = 4 * 2**20
# Neighbours by int8 for each one wanted, which the float32 vectors rank again: of 200,000 points between embeddings two
# found 0.973 of the true ones, four 0.998 (benchmarks/quantisation.py).
OVERSAMPLING = 4.0
# The farthest neighbour that is looked for in a graph; more are found by comparing with every point.
FARTHEST = 200
# Points kept in view for each neighbour wanted, at least.
_IN_VIEW = 2
# Fields by which the images of a query's own patient are left out: next to nothing of an index.
_OF_PATIENT = frozenset({"image_sha256", "patient", "picture"})
# More or fewer images than this since it was measured, as a part: a graph is measured again.
CHANGED = 0.05

BUILDING = (
    "building a graph of all images, which takes minutes: what is stored is safe, and searches go on, comparing with"
    " every image until it is there"
)


@dataclass(frozen=True)
class Effort:
    """How hard a search looks.

    breadth: points of the graph kept in view (HNSW's ef); None: compare with every point.
    acorn: step over points that a filter leaves out, to those behind them (ACORN: Patel et al. 2024).
    int8: compare with int8 copies of the vectors, and rank OVERSAMPLING times as many as wanted by the vectors.
    """

    breadth: int | None = None
    acorn: bool = False
    int8: bool = False

    def to(self, limit: int, among: Expression | None) -> Effort:
        """As much as ``limit`` neighbours among these images take.

        By ACORN where a filter is of several facts: the engine gives the images that have one fact edges of their own,
        and those that have two together none, so that the graph is cut to pieces.
        """
        if self.breadth is None or limit > FARTHEST:
            return EXACT
        facts = set(named(among)) - _OF_PATIENT
        return replace(self, breadth=max(self.breadth, _IN_VIEW * limit), acorn=len(facts) > 1)


EXACT = Effort()


@dataclass(frozen=True)
class Graph:
    """What was measured of an index's graph (recall.py).

    made: ISO date.
    images: how many the index had.
    sampled: how many of them were searched with.
    effort: the least that found enough, of a search without a filter; EXACT where none did, or none was faster.
    recalls: of each kind of search, the part of the true neighbours, 0..1, that this effort found; where none found
        enough, the greatest.
    milliseconds, exact_milliseconds: of a search without a filter, by the graph and by comparing with every point.
    """

    made: str
    images: int
    sampled: int
    effort: Effort
    recalls: Mapping[str, float]
    milliseconds: float
    exact_milliseconds: float

    @property
    def recall(self) -> float:
        """Of the kind of search that it finds least for."""
        return min(self.recalls.values())

    def is_of(self, images: int) -> bool:
        """Whether an index of so many images is still the one that was measured."""
        return abs(images - self.images) <= CHANGED * self.images

    @classmethod
    def from_json(cls, data: Any) -> Graph | None:
        """Raises ValueError, TypeError or KeyError for what is none."""
        if data is None:
            return None
        breadth, recalls = data["effort"]["breadth"], {str(n): float(r) for n, r in data["recalls"].items()}
        times = float(data["milliseconds"]), float(data["exact_milliseconds"])
        if data["effort"].get("acorn"):  # measured when every filter went by ACORN, or none
            return None
        if (
            not recalls
            or not all(0 <= recall <= 1 for recall in recalls.values())
            or not all(map(math.isfinite, times))
        ):
            raise ValueError
        if breadth is not None and not 1 <= int(breadth) <= 2**16:
            raise ValueError
        effort = Effort(None if breadth is None else int(breadth), int8=bool(data["effort"].get("int8", False)))
        return cls(str(data["made"]), int(data["images"]), int(data["sampled"]), effort, recalls, *times)


def is_large(images: int, dimensions: int) -> bool:
    """Whether comparing with every point takes so long that a graph is worth its misses."""
    return images * dimensions * 4 >= EXACT_BELOW_KB * 1024


def has_int8(in_graph: int, dimensions: int) -> bool:
    """Whether a graph of so many points has int8 copies of their vectors."""
    return in_graph * dimensions * 4 >= INT8_FROM_KB * 1024


def effort_for(graph: Graph | None, limit: int, among: Expression | None) -> Effort:
    """With which an index is searched for so many neighbours among these images."""
    return EXACT if graph is None else graph.effort.to(limit, among)


def used(graph: Graph | None, limit: int, among: Expression | None = None) -> Graph | None:
    """The graph that a search goes by, with the effort that it takes; None where it compares with every point."""
    effort = effort_for(graph, limit, among)
    return None if graph is None or effort == EXACT else replace(graph, effort=effort)


def as_json(used: Graph | None) -> dict[str, Any]:
    """How hits were found, for programs."""
    if used is None:
        return {"exact": True, "recall": 1.0}
    return {"exact": False, "recall": used.recall, **asdict(used.effort), "measured": used.made, "images": used.images}


def words(graph: Graph | None, images: int, dimensions: int) -> str:
    """How an index of so many images is searched, and what is known of it, as a sentence without a full stop."""
    if graph is None:
        later = "; a graph is built when the next cxrsearch index ends" if is_large(images, dimensions) else ""
        return f"every image is compared, none is missed{later}"
    now = "" if graph.is_of(images) else f", which are {images:,} now"
    measured = f"measured on {graph.sampled} of {graph.images:,} images on {graph.made}{now}"
    if graph.effort != EXACT:
        how = f"breadth {graph.effort.breadth}"
        how += ", int8 ranked again by float32" if graph.effort.int8 else ""
        times = f"{graph.milliseconds:.1f} ms in place of {graph.exact_milliseconds:.1f} ms"
        return f"a graph finds at least {_percent(graph.recall)} of the true neighbours ({how}; {times}; {measured})"
    why = f"finds {_percent(graph.recall)} of the true neighbours in {graph.milliseconds:.1f} ms"
    return (
        f"every image is compared, none is missed, in {graph.exact_milliseconds:.1f} ms: a graph {why} at best"
        f" ({measured})"
    )


def found_words(used: Graph) -> str:
    """What the reader of hits has to know that a graph found."""
    return (
        f"found by a graph, which finds at least {_percent(used.recall)} of the true neighbours in this index"
        f" (measured on {used.made})"
    )


def _percent(part: float) -> str:
    """Rounded down: 100 % is all of them."""
    return f"{math.floor(part * 1000) / 10:g} %"
