"""What a Qdrant server answered, looked at before it is believed: the server may be broken, or anybody's.

Each check raises IndexUnavailable, which says what was answered that cannot be.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Field, Payload, Scalar, wrong_type
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.contract import Point, Scored
from cxrsearch.store.order import best_first, in_order, most_frequent_first
from cxrsearch.store.refusals import impossible

# More images than any archive known to us has.
MOST_POINTS = 10_000_000


class Answers:
    """The checks of one index, of JSON that was read. place: what messages call the index; fields: what it declares;
    dimensions: of its vectors."""

    def __init__(self, place: str, fields: Mapping[str, Field], dimensions: int) -> None:
        self._place, self._fields, self._dimensions = place, fields, dimensions

    def neighbours(self, found: Any, limit: int) -> list[Scored]:
        """At most ``limit``, best first, though a server may send more, and in another order."""
        scored = ((str(self._id(one)), self._score(one), self._payload(one)) for one in self._objects(found))
        return best_first(scored)[:limit]

    def points(self, pages: Iterator[Any], page_size: int, vectors: bool) -> Iterator[Point]:
        """The points of page after page. A server that pages for ever is found out: a page begins after the last one
        ended, and only the last one is not full."""
        count, last = 0, None
        for found in pages:
            page = self._objects(found)
            if last is not None and (count % page_size or not page or _order(self._id(page[0])) <= last):
                raise self._refused("page after page, without end")
            count += len(page)
            if count > MOST_POINTS:
                raise self._refused(f"more than {MOST_POINTS:,} points")
            for one in page:
                payload = self._payload(one)
                if vectors:
                    yield Point(self._uuid(one), payload, self._vector(one))
                else:
                    yield Point(str(self._id(one)), payload)
            last = _order(self._id(page[-1])) if page else (False, -1)

    def count(self, number: Any) -> int:
        if type(number) is not int or not 0 <= number <= MOST_POINTS:
            raise self._refused(f"a count of {str(number)[:40]} images")
        return number

    def values(self, found: Any, field: str) -> dict[Scalar, int]:
        """Values of a field, and how many images have each. A server goes on listing values whose last point was
        deleted, a forgotten patient's among them; they are left out."""
        counts = {}
        for hit in self._objects(found):
            value = hit.get("value")
            if not isinstance(value, Scalar):
                raise self._refused(f"a count of {field} without a value")
            self._check({field: value}, "a count")
            if count := self.count(hit.get("count")):
                counts[value] = count
        return most_frequent_first(counts)

    def _objects(self, found: Any) -> list[dict[str, Any]]:
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise impossible(self._place)
        return found

    def _id(self, point: Mapping[str, Any]) -> int | str:
        id = point.get("id")
        if type(id) is int or isinstance(id, str):
            return id
        raise self._refused("a point without an id")

    def _score(self, point: Mapping[str, Any]) -> float:
        try:
            score = float(point["score"])
        except (KeyError, TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            raise self._refused(f"a score that is no number ({str(point.get('score'))[:40]})")
        return score

    def _payload(self, point: Mapping[str, Any]) -> Payload:
        """What the index declares of a point's payload. Null is how Qdrant stores what is missing."""
        given = point.get("payload") or {}
        if not isinstance(given, dict):
            raise impossible(self._place)
        payload = {n: v for n, v in given.items() if v is not None and (n in self._fields or n.startswith("_"))}
        self._check(payload, f"point {str(self._id(point))[:40]}")
        return in_order(payload, self._fields)

    def _check(self, payload: Mapping[str, Any], what: str) -> None:
        if (wrong := wrong_type(payload, self._fields)) is not None:
            raise self._refused(f"{what} with a wrong {wrong}")

    def _uuid(self, point: Mapping[str, Any]) -> str:
        """The id of a point that is to be stored elsewhere."""
        id = str(self._id(point))
        try:
            if str(uuid.UUID(id)) == id:
                return id
        except ValueError:
            pass
        raise self._refused(f"point {id[:40]!r}, whose id is none of cxrsearch's")

    def _vector(self, point: Mapping[str, Any]) -> NDArray[np.float32]:
        try:
            vector = np.array(point.get("vector"), dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            vector = np.empty(0, np.float32)
        if vector.shape != (self._dimensions,) or not np.isfinite(vector).all():
            raise self._refused(
                f"point {str(self._id(point))[:40]} without a vector of {self._dimensions} finite numbers"
            )
        return vector

    def _refused(self, what: str) -> IndexUnavailable:
        return impossible(self._place, what)


def _order(id: int | str) -> tuple[bool, int | str]:
    """Qdrant's order of ids: numbers, then UUIDs."""
    return (False, id) if isinstance(id, int) else (True, id)
