"""An index on a Qdrant server: one collection, its facts in the collection's metadata.

Opening it is one request and a search another, by plain HTTP (rest.py); what is written goes by qdrant-client
(server_writes.py), which is imported when something is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from cxrsearch import settings
from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import FieldType, Payload, Scalar, values_of
from cxrsearch.errors import IndexUnavailable, UsageError
from cxrsearch.store import collection_facts as facts_of
from cxrsearch.store import server_erasure as erasure
from cxrsearch.store import server_graph
from cxrsearch.store.address import ServerAddress, parse_address
from cxrsearch.store.answers import Answers
from cxrsearch.store.contract import IndexFacts, KnownOrNearest, Point, Scored, Vector, check_vectors
from cxrsearch.store.filters import SERVER, translate, with_values_for_words
from cxrsearch.store.graph import EXACT, Effort, effort_for, has_int8
from cxrsearch.store.limits import Limits
from cxrsearch.store.order import most_frequent_first
from cxrsearch.store.replication import Replication
from cxrsearch.store.rest import Rest
from cxrsearch.store.server_collection import ServerCollection

_log = logging.getLogger("cxrsearch")

# Points that are asked for at once.
_PAGE = 1_000
# Values that are asked for at once; where there are more, images are counted one by one. Of a declared field each may
# be long; a pseudonym or digest, which every index run counts, is 39 bytes of an answer, some 80 MB together.
_MOST_VALUES = 250_000
_MOST_TOKENS = 2_000_000
_TOKENS = ("patient", "study", "picture", "image_sha256")


class ServerStore:
    """A VectorStore on one collection of a Qdrant server. Use :meth:`connect`."""

    def __init__(
        self,
        address: ServerAddress,
        facts: IndexFacts | None = None,
        unpublished: bool = False,
        write: bool = False,
    ) -> None:
        self._address, self._place = address, address.place
        self._rest = Rest(address)
        self._collection = ServerCollection(address, self._rest)
        self._remains: Sequence[str] = ()
        try:
            if facts is None:
                self.facts = self._collection.open()
            else:
                self.facts = self._collection.open_or_make(facts, unpublished)
            self.thumbnails = self._collection.thumbnails
            if self._rest.nodes.is_cluster and (write or facts is not None or self._rest.nodes.were_away):
                self._collection.members.check()
            if write:
                self.check_writable()
        except BaseException:
            self._close_connections()
            raise

    @classmethod
    def connect(
        cls, address: str, facts: IndexFacts | None = None, unpublished: bool = False, write: bool = False
    ) -> ServerStore:
        """``facts``: a missing collection is made with them; ``unpublished``: it is no index before it is closed.
        ``write``: make sure that it may be written.

        Raises UsageError for an address that is none, IndexUnavailable when no server answers or it refuses.
        """
        place = parse_address(address)
        if settings.qdrant_api_key() and place.open_hosts:
            _log.warning(f"the API key goes to {', '.join(place.open_hosts)} unencrypted; use https")
        return cls(place, facts, unpublished, write)

    @property
    def is_unpublished(self) -> bool:
        """Whether this process made it, and it is no index yet."""
        return self._collection.is_unpublished

    def check_writable(self) -> None:
        self._rest.change({})  # changes nothing, and is refused to a key that may only read

    def declare(self, facts: IndexFacts) -> None:
        """Other processes' declarations of the same time stay, and are in ``self.facts`` afterwards. Raises InputError
        where they do not go together."""
        self._collection.writes.index_fields({n: f for n, f in facts.fields.items() if n not in self.facts.fields})
        if self.is_unpublished:
            self.facts = facts
            return
        if changes := facts_of.changes(self.facts, facts):
            self._collection.change(changes)
        kept = self._collection.open()
        facts_of.check_kept(facts, kept, self.facts)
        self.facts = kept

    def reload(self) -> None:
        self.facts = self._collection.open()

    def upsert(self, points: Sequence[Point]) -> None:
        vectors = check_vectors(points, self.facts.dimensions)
        if self.is_unpublished:
            self._collection.check_mine()
        step = self._limits.batch or max(1, len(points))
        for at in range(0, len(points), step):
            self._collection.writes.upsert(points[at : at + step], vectors[at : at + step])
        if not self.thumbnails.keeps:  # those of images that were here before are no longer theirs
            self.thumbnails.remove([point.id for point in points if self.thumbnails.has(point.id)])

    def set_payloads(self, payloads: Mapping[str, Payload]) -> None:
        self._collection.writes.set_payloads(payloads)

    def query(
        self, vector: Vector, limit: int, expression: Expression | None = None, effort: Effort | None = None
    ) -> list[Scored]:
        chosen = effort or effort_for(self.facts.graph, limit, expression)
        return self._query(vector.tolist(), limit, expression, chosen)

    def recommend(
        self, positives: Sequence[Vector], negatives: Sequence[Vector], limit: int, expression: Expression | None = None
    ) -> list[Scored]:
        examples = {
            "positive": [vector.tolist() for vector in positives],
            "negative": [vector.tolist() for vector in negatives],
            "strategy": "sum_scores",
        }
        return self._query({"recommend": examples}, limit, expression, EXACT)

    def query_each(self, vectors: Sequence[Vector], limit: int, expression: Expression | None) -> list[list[Scored]]:
        condition = self._condition(expression)
        effort = effort_for(self.facts.graph, limit, expression)
        asked = [{**self._nearest(vector.tolist(), limit, effort), **condition} for vector in vectors]
        found = self._rest.ask_each("points/query/batch", "points", asked)
        return [self._answers.neighbours(one, limit) for one in found]

    def _query(self, query: Any, limit: int, expression: Expression | None, effort: Effort) -> list[Scored]:
        found = self._ask("points/query", "points", self._nearest(query, limit, effort), expression)
        return self._answers.neighbours(found["points"], limit)

    def _nearest(self, query: Any, limit: int, effort: Effort) -> dict[str, Any]:
        self._check_limit(limit)
        params = server_graph.params(effort, self._limits)
        return {"query": query, "limit": limit, "with_payload": True, "params": params}

    def known_or_nearest(self, known: Expression, vector: Vector, limit: int) -> KnownOrNearest:
        size = min(_PAGE, self._limits.answers or _PAGE)
        matching = {**self._condition(known), "limit": size, "with_payload": True, "with_vector": True}
        both = [matching, self._nearest(vector.tolist(), limit, effort_for(self.facts.graph, limit, None))]
        first, nearest = self._rest.ask_each("points/query/batch", "points", both)
        points = list(self._answers.points(iter([first]), size, vectors=True))
        if len(points) == size:  # there may be more of them
            points = list(self.scroll(known, vectors=True))
        return points, None if points else self._answers.neighbours(nearest, limit)

    def scroll(
        self, expression: Expression | None = None, fields: Collection[str] | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        size = min(_PAGE, self._limits.answers or _PAGE)
        return self._answers.points(self._pages(size, expression, fields, vectors), size, vectors)

    def _pages(
        self, size: int, expression: Expression | None, fields: Collection[str] | None, vectors: bool
    ) -> Iterator[Any]:
        wanted: dict[str, Any] = {
            "limit": size,
            "with_payload": True if fields is None else list(fields),
            "with_vector": vectors,
            **self._condition(expression),
        }
        while True:
            page = self._rest.ask("points/scroll", "points", wanted)
            yield page["points"]
            if page.get("next_page_offset") is None:
                return
            wanted["offset"] = page["next_page_offset"]

    def count(self, expression: Expression | None = None) -> int:
        return self._answers.count(self._ask("points/count", "count", {"exact": True}, expression)["count"])

    def values(self, field: str, expression: Expression | None = None) -> Mapping[Scalar, int]:
        most = _MOST_TOKENS if field in _TOKENS else _MOST_VALUES
        limit = min(most, self._limits.answers or most)
        hits = self._ask("facet", "hits", {"key": field, "limit": limit, "exact": True}, expression)["hits"]
        if not isinstance(hits, list) or len(hits) < limit:
            return self._answers.values(hits, field)
        return most_frequent_first(
            Counter(
                value
                for point in self.scroll(expression, [field])
                for value in dict.fromkeys(values_of(point.payload, field))
            )
        )

    def delete(self, expression: Expression) -> int:
        count = self.count(expression)
        self.thumbnails.remove([point.id for point in self.scroll(expression, fields=[])])
        self._ask("points/delete?wait=true&ordering=medium", "status", {}, expression)
        return count

    def erase(self, expression: Expression, facts: IndexFacts) -> int:
        """As :meth:`delete`; then the server rewrites its files, and :meth:`remains` says what it may keep."""
        if not self.thumbnails.is_reachable():
            raise IndexUnavailable(
                f"{self._place}: its thumbnails are in {self.thumbnails.place}, which cannot be reached from here, and"
                " would stay. Nothing was deleted; do it on a machine that sees them."
            )
        erasure.check_replicas(self.replication(), self._place, "Nothing was deleted")
        self.declare(facts)  # first: a run that is killed here can be repeated
        deleted = self.delete(expression)
        done = erasure.rewrite(self._rest)
        kept = self.replication()
        erasure.check_replicas(kept, self._place, f"{deleted} images were deleted from the others")
        if self._collection.has_own_place:
            erasure.remove_pictures_without_image(self)
        self._remains = erasure.remains(self._rest, self._place, self.count(), done)
        if self._collection.replicas > 1 and kept is None:
            self._remains = [erasure.unknown_replicas(self._place), *self._remains]
        return deleted

    def remains(self) -> Sequence[str]:
        return self._remains

    def optimise(self, graph: bool = False) -> None:
        if graph and self._limits.exact:  # or nothing could say what the graph misses
            server_graph.build(self._rest, has_int8(self.count(), self.facts.dimensions))

    def in_graph(self) -> int:
        return server_graph.points(self._rest) if self._limits.exact else 0

    def size_bytes(self) -> int | None:
        return None

    def replication(self) -> Replication | None:
        return self._collection.replication()

    def problems(self) -> Iterator[str]:
        """Of the thumbnails; the server answers for its own files."""
        return self.thumbnails.problems()

    def close(self) -> None:
        try:
            if self.is_unpublished:
                self._collection.publish(self.facts)
        finally:
            self._close_connections()

    def abandon(self) -> None:
        try:
            self._collection.drop()
        except IndexUnavailable as error:  # why it is abandoned is what the caller raises
            _log.warning(str(error))
        finally:
            self._close_connections()

    def _close_connections(self) -> None:
        self._rest.close()
        self._collection.close()

    # ------------------------------------------------------------------ asking

    @property
    def _limits(self) -> Limits:
        return self._collection.limits

    @property
    def _answers(self) -> Answers:
        return Answers(self._place, self.facts.all_fields, self.facts.dimensions)

    def _ask(self, path: str, part: str, body: Mapping[str, Any], expression: Expression | None) -> Any:
        return self._rest.ask(path, part, {**body, **self._condition(expression)})

    def _check_limit(self, limit: int) -> None:
        if self._limits.answers is not None and limit > self._limits.answers:
            raise UsageError(
                f"{self._place}: this collection gives at most {self._limits.answers} images at once (strict mode)"
                f" and {limit} are needed. Give a smaller --limit, or have max_query_limit raised on the server."
            )

    def _condition(self, expression: Expression | None) -> dict[str, Any]:
        """The filter of a request. Of words of a keyword it asks the server for the values that there are."""
        if expression is None:
            return {}
        fields = self.facts.all_fields
        dates = frozenset(name for name, field in fields.items() if field.type is FieldType.DATE)
        return {"filter": translate(with_values_for_words(expression, fields, self.values), SERVER, dates)}
