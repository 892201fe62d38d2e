"""In which order things come out of an index: the same whichever engine holds it.

A server gives objects, counts and equal scores in any order, another one at each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from cxrsearch.clinical.fields import Payload, Scalar
from cxrsearch.store.contract import Scored

# Places of a score behind the point. A sum of products in float32 is right to some seven digits; the next ones depend
# on the processor that added them up.
_PLACES = 6


def in_order(payload: Mapping[str, Any], fields: Iterable[str]) -> Payload:
    """A payload in the order of the index's fields; what is none of them after that, by name."""
    ordered = {name: payload[name] for name in fields if name in payload}
    if len(ordered) < len(payload):
        ordered |= {name: payload[name] for name in sorted(payload) if name not in ordered}
    return ordered


def best_first(found: Iterable[tuple[str, float, Payload]]) -> list[Scored]:
    """Points by score, rounded to what is meant by it; of equal scores by id. found: id, score and payload of each."""
    ranked = sorted(((-round(score, _PLACES), id, payload) for id, score, payload in found), key=itemgetter(0, 1))
    return [Scored(id, -score, payload) for score, id, payload in ranked]


def most_frequent_first(counts: Mapping[Scalar, int]) -> dict[Scalar, int]:
    """By count; of equal counts by value."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))))
