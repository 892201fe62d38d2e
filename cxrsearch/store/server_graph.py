"""The graph of a collection: built when a bulk job asks for it, not while it writes; and how a search uses it."""

from __future__ import annotations

import logging
import time
from typing import Any

from cxrsearch.store import graph
from cxrsearch.store.graph import EXACT, OVERSAMPLING, Effort
from cxrsearch.store.limits import Limits
from cxrsearch.store.rest import Rest

# The indexing_threshold that a collection is made with: its server builds no graph of its own accord.
NEVER = 0
# The least part of a large index that one of a server's segments may be, to be in the graph.
_SEGMENT = 1 / 25
# How long the server is given, in seconds; how often it is looked at; and before when it may not have begun.
_SECONDS = 4 * 3600.0
_LOOK_EVERY = 0.5
_BEGINS_WITHIN = 2.0


def build(rest: Rest, int8: bool) -> None:
    """Have the server build a graph, and wait until it has. A server that builds none is left alone after a moment, as
    is one that takes longer than a night. int8: with int8 copies of the vectors in memory. Raises IndexUnavailable."""
    logging.getLogger("cxrsearch").info(graph.BUILDING)
    shape = {
        "m": graph.EDGES,
        "ef_construct": graph.LOOKED_AT,
        "full_scan_threshold": graph.FILTERED_EXACT_BELOW_KB,
    }
    threshold = max(1, round(graph.EXACT_BELOW_KB * _SEGMENT))
    change: dict[str, Any] = {"hnsw_config": shape, "optimizers_config": {"indexing_threshold": threshold}}
    if int8:
        change["quantization_config"] = {"scalar": {"type": "int8", "always_ram": True}}
        change["vectors"] = {"": {"on_disk": True}}  # the originals, which then only rank again
    rest.change(change)
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < _SECONDS:
        time.sleep(_LOOK_EVERY)
        if elapsed >= _BEGINS_WITHIN and (rest.collection() or {}).get("status") == "green":
            return


def points(rest: Rest) -> int:
    """How many points the graph has. Raises IndexUnavailable."""
    found = (rest.collection() or {}).get("indexed_vectors_count")
    return found if type(found) is int and found > 0 else 0


def params(effort: Effort, allowed: Limits) -> dict[str, Any]:
    """Of a search. Where the server forbids to ask for an exact search, no graph is built (server.py), and every
    search is one."""
    if effort == EXACT:
        return {"exact": True} if allowed.exact else {}
    assert effort.breadth is not None
    acorn = {"acorn": {"enable": True}} if effort.acorn else {}
    oversampling = min(OVERSAMPLING, allowed.oversampling or OVERSAMPLING)
    int8 = {"rescore": True, "oversampling": oversampling} if effort.int8 else {"ignore": True}
    return {"hnsw_ef": min(effort.breadth, allowed.breadth or effort.breadth), **acorn, "quantization": int8}
