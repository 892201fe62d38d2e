"""What a Qdrant server answered, looked at before it is believed: the server may be broken, or anybody's.

Each check raises IndexUnavailable, which says what was answered that cannot be.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Field, Payload, Scalar, wrong_type
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.contract import Point, Scored

# Points that are asked for at once.
PAGE = 1_000
# More images than any archive known to us has.
MOST_POINTS = 10_000_000


class Answers:
    """The checks of one index. place: what messages call it; fields: what it declares; dimensions: of its vectors."""

    def __init__(self, place: str, fields: Mapping[str, Field], dimensions: int) -> None:
        self._place, self._fields, self._dimensions = place, fields, dimensions

    def neighbours(self, found: Sequence[Any], limit: int) -> list[Scored]:
        """At most ``limit``, best first, though a server may send more, and in another order."""
        for one in found:
            if not math.isfinite(one.score):
                raise self._refused(f"a score that is no number ({one.score})")
        best = sorted(found, key=lambda one: -one.score)[:limit]
        return [Scored(str(one.id), float(one.score), self._payload(one)) for one in best]

    def points(self, pages: Iterator[Sequence[Any]], vectors: bool) -> Iterator[Point]:
        """The points of page after page. A server that pages for ever is found out: a page begins after the last one
        ended, and only the last one is not full."""
        count, last = 0, None
        for page in pages:
            if last is not None and (count % PAGE or not page or _order(page[0].id) <= last):
                raise self._refused("page after page, without end")
            count += len(page)
            if count > MOST_POINTS:
                raise self._refused(f"more than {MOST_POINTS:,} points")
            for record in page:
                payload = self._payload(record)
                if vectors:
                    yield Point(self._uuid(record.id), payload, self._vector(record))
                else:
                    yield Point(str(record.id), payload)
            last = _order(page[-1].id) if page else (False, -1)

    def count(self, number: int) -> int:
        if not 0 <= number <= MOST_POINTS:
            raise self._refused(f"a count of {number} images")
        return number

    def values(self, hits: Collection[Any], field: str) -> dict[Scalar, int]:
        """Values of a field, and how many images have each."""
        for hit in hits:
            self._check({field: hit.value}, "a count")
            self.count(hit.count)
        return {hit.value: hit.count for hit in hits}

    def _payload(self, point: Any) -> Payload:
        """What the index declares of a point's payload. Null is how Qdrant stores what is missing."""
        given = {} if point.payload is None else point.payload
        payload = {n: v for n, v in given.items() if v is not None and (n in self._fields or n.startswith("_"))}
        self._check(payload, f"point {str(point.id)[:40]}")
        return payload

    def _check(self, payload: Mapping[str, Any], what: str) -> None:
        if (wrong := wrong_type(payload, self._fields)) is not None:
            raise self._refused(f"{what} with a wrong {wrong}")

    def _uuid(self, id: Any) -> str:
        """Of a point that is to be stored elsewhere."""
        try:
            if str(uuid.UUID(id)) == id:
                return str(id)
        except (ValueError, AttributeError, TypeError):
            pass
        raise self._refused(f"point {str(id)[:40]!r}, whose id is none of cxrsearch's")

    def _vector(self, point: Any) -> NDArray[np.float32]:
        try:
            vector = np.array(point.vector, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            vector = np.empty(0, np.float32)
        if vector.shape != (self._dimensions,) or not np.isfinite(vector).all():
            raise self._refused(f"point {point.id} without a vector of {self._dimensions} finite numbers")
        return vector

    def _refused(self, what: str) -> IndexUnavailable:
        return IndexUnavailable(f"{self._place}: the server answered {what}. Is it a Qdrant server, and whole?")


def _order(id: Any) -> tuple[bool, int | str]:
    """Qdrant's order of ids: numbers, then UUIDs."""
    return (False, id) if isinstance(id, int) else (True, str(id))
