"""An index on a Qdrant server: one collection, its facts in the collection's metadata.

Opening it is one request and a search another, by plain HTTP (rest.py); what is written goes by qdrant-client
(server_writes.py), which is imported when something is.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch import settings
from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import FieldType, Payload, Scalar, values_of
from cxrsearch.errors import IndexUnavailable, UsageError
from cxrsearch.store import collection_facts as facts_of
from cxrsearch.store import server_erasure as erasure
from cxrsearch.store import server_graph
from cxrsearch.store.address import ServerAddress, parse_address
from cxrsearch.store.answers import Answers
from cxrsearch.store.contract import IndexFacts, Point, Scored, check_vectors
from cxrsearch.store.filters import Engine, translate
from cxrsearch.store.graph import EXACT, Effort, effort_for
from cxrsearch.store.order import most_frequent_first
from cxrsearch.store.rest import Rest
from cxrsearch.store.thumbnail_places import is_place_of, place_of, thumbnails_at
from cxrsearch.store.thumbnails import Thumbnails

if TYPE_CHECKING:
    from cxrsearch.store.server_writes import ServerWrites

# Points that are asked for at once.
_PAGE = 1_000
# How long a collection that another process is making is waited for, in seconds, and how often it is looked at.
_MAKING_SECONDS = 20.0
_LOOK_EVERY = 0.2

_FILTERS = Engine(
    match=lambda key, value: {"key": key, "match": {"value": value}},
    match_any=lambda key, values: {"key": key, "match": {"any": list(values)}},
    words=lambda key, text: {"key": key, "match": {"text": text}},
    number=lambda key, **bounds: {"key": key, "range": bounds},
    date=lambda key, **bounds: {"key": key, "range": bounds},
    missing=lambda key: {"is_empty": {"key": key}},
    filter=lambda **parts: parts,
)


@dataclass(frozen=True)
class Limits:
    """What a collection in strict mode allows, None where it sets no limit.

    answers: points of one answer; breadth: hnsw_ef; batch: points of one upsert; exact: whether a search may be."""

    answers: int | None = None
    breadth: int | None = None
    batch: int | None = None
    exact: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        strict = config.get("strict_mode_config") or {}
        if not strict.get("enabled"):
            return cls()
        named = (strict.get(name) for name in ("max_query_limit", "search_max_hnsw_ef", "upsert_max_batchsize"))
        answers, breadth, batch = (limit if type(limit) is int and limit > 0 else None for limit in named)
        return cls(answers, breadth, batch, strict.get("search_allow_exact") is not False)


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
        folder = settings.thumbnails()
        self._own_folder = None if folder is None else place_of(folder, address.collection)
        self.thumbnails = thumbnails_at(self._own_folder) if self._own_folder is not None else Thumbnails(None)
        self._unpublished = False
        self._limits = Limits()
        self._remains: Sequence[str] = ()
        try:
            self.facts = self._open() if facts is None else self._open_or_make(facts, unpublished)
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
        if settings.qdrant_api_key() and place.is_open_network:
            logging.getLogger("cxrsearch").warning(f"the API key goes to {place.host} unencrypted; use https")
        return cls(place, facts, unpublished, write)

    def check_writable(self) -> None:
        self._rest.change({})  # changes nothing, and is refused to a key that may only read

    def declare(self, facts: IndexFacts) -> None:
        """Other processes' declarations of the same time stay, and are in ``self.facts`` afterwards. Raises InputError
        where they do not go together."""
        self._writes.index_fields({n: f for n, f in facts.fields.items() if n not in self.facts.fields})
        if self._unpublished:
            self.facts = facts
            return
        if changes := facts_of.changes(self.facts, facts):
            self._rest.change({"metadata": changes | self._where_thumbnails_are()})
        kept = self._open()
        facts_of.check_kept(facts, kept, self.facts)
        self.facts = kept

    def upsert(self, points: Sequence[Point]) -> None:
        vectors = check_vectors(points, self.facts.dimensions)
        step = self._limits.batch or max(1, len(points))
        for at in range(0, len(points), step):
            self._writes.upsert(points[at : at + step], vectors[at : at + step])
        if not self.thumbnails.keeps:  # those of images that were here before are no longer theirs
            self.thumbnails.remove([point.id for point in points if self.thumbnails.has(point.id)])

    def set_payloads(self, payloads: Mapping[str, Payload]) -> None:
        self._writes.set_payloads(payloads)

    def query(
        self,
        vector: NDArray[np.float32],
        limit: int,
        expression: Expression | None = None,
        effort: Effort | None = None,
    ) -> list[Scored]:
        return self._query(vector.tolist(), limit, expression, effort or effort_for(self.facts.graph, limit))

    def recommend(
        self,
        positives: Sequence[NDArray[np.float32]],
        negatives: Sequence[NDArray[np.float32]],
        limit: int,
        expression: Expression | None = None,
    ) -> list[Scored]:
        examples = {
            "positive": [vector.tolist() for vector in positives],
            "negative": [vector.tolist() for vector in negatives],
            "strategy": "sum_scores",
        }
        return self._query({"recommend": examples}, limit, expression, EXACT)

    def _query(self, query: Any, limit: int, expression: Expression | None, effort: Effort) -> list[Scored]:
        self._check_limit(limit)
        params = server_graph.params(effort, self._limits.breadth, self._limits.exact)
        body = {"query": query, "limit": limit, "with_payload": True, "params": params}
        return self._answers.neighbours(self._ask("points/query", "points", body, expression)["points"], limit)

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
        }
        while True:
            page = self._ask("points/scroll", "points", wanted, expression)
            yield page["points"]
            if page.get("next_page_offset") is None:
                return
            wanted["offset"] = page["next_page_offset"]

    def count(self, expression: Expression | None = None) -> int:
        return self._answers.count(self._ask("points/count", "count", {"exact": True}, expression)["count"])

    def values(self, field: str, expression: Expression | None = None) -> Mapping[Scalar, int]:
        limit = max(1, self.count())
        if self._limits.answers is not None and limit > self._limits.answers:
            counts = Counter(
                value
                for point in self.scroll(expression, [field])
                for value in dict.fromkeys(values_of(point.payload, field))
            )
            return most_frequent_first(counts)
        found = self._ask("facet", "hits", {"key": field, "limit": limit, "exact": True}, expression)
        return self._answers.values(found["hits"], field)

    def delete(self, expression: Expression) -> int:
        count = self.count(expression)
        self.thumbnails.remove([point.id for point in self.scroll(expression, fields=[])])
        self._ask("points/delete?wait=true", "status", {}, expression)
        return count

    def erase(self, expression: Expression, facts: IndexFacts) -> int:
        """As :meth:`delete`; then the server rewrites its files, and :meth:`remains` says what it may keep."""
        if not self.thumbnails.is_reachable():
            raise IndexUnavailable(
                f"{self._place}: its thumbnails are in {self.thumbnails.place}, which cannot be reached from here, and"
                " would stay. Nothing was deleted; do it on a machine that sees them."
            )
        self.declare(facts)  # first: a run that is killed here can be repeated
        deleted = self.delete(expression)
        self._remains = erasure.remains(self._rest, self._place, self.count(), erasure.rewrite(self._rest))
        return deleted

    def remains(self) -> Sequence[str]:
        return self._remains

    def optimise(self, graph: bool = False) -> None:
        if graph and self._limits.exact:  # or nothing could say what the graph misses
            server_graph.build(self._rest)

    def in_graph(self) -> int:
        return server_graph.points(self._rest) if self._limits.exact else 0

    def size_bytes(self) -> int | None:
        return None

    def problems(self) -> Iterator[str]:
        """Of the thumbnails; the server answers for its own files."""
        return self.thumbnails.problems()

    def close(self) -> None:
        try:
            if self._unpublished:
                self._rest.change({"metadata": facts_of.records(self.facts) | self._where_thumbnails_are()})
        finally:
            self._close_connections()

    def abandon(self) -> None:
        if self._unpublished:
            self._writes.drop()
            self.thumbnails.remove(self.thumbnails.unsettled)
        self._close_connections()

    # ------------------------------------------------------------------ opening and making

    @cached_property
    def _writes(self) -> ServerWrites:
        from cxrsearch.store.server_writes import ServerWrites

        return ServerWrites(self._address)

    def _metadata(self) -> Mapping[str, Any] | None:
        """None where there is no collection."""
        found = self._rest.collection()
        if found is None:
            return None
        self._limits = Limits.of(found["config"])
        metadata = found["config"].get("metadata") or {}
        named = str(metadata.get(facts_of.THUMBNAILS, ""))
        if self._own_folder is None and is_place_of(named, self._address.collection):
            self.thumbnails = thumbnails_at(named, named_by_others=True)
        return metadata

    def _where_thumbnails_are(self) -> dict[str, Any]:
        return {} if self._own_folder is None else {facts_of.THUMBNAILS: self._own_folder}

    def _open(self) -> IndexFacts:
        metadata = self._metadata()
        if metadata is None:
            raise IndexUnavailable(
                f"{self._place}: no such index. Make one with: cxrsearch index DATASET --index {self._place}"
            )
        return facts_of.read(metadata, self._place)

    def _open_or_make(self, facts: IndexFacts, unpublished: bool) -> IndexFacts:
        metadata = self._metadata()
        if unpublished and facts_of.state(metadata) == facts_of.UNPUBLISHED:
            self._writes.drop()
            metadata = None
        first = facts_of.UNPUBLISHED if unpublished else facts_of.BEING_MADE
        if metadata is None and self._writes.create(facts.dimensions, {facts_of.MAIN: first}):
            return self._finish(facts, unpublished)
        # Made by another process a moment ago, perhaps: it is given the time to finish.
        end = time.monotonic() + _MAKING_SECONDS
        while facts_of.state(metadata := self._metadata()) == facts_of.BEING_MADE:
            if time.monotonic() > end:  # that process was killed
                return self._finish(facts, unpublished)
            time.sleep(_LOOK_EVERY)
        return facts_of.read(metadata, self._place)

    def _finish(self, facts: IndexFacts, unpublished: bool) -> IndexFacts:
        self._writes.index_fields(facts.all_fields)
        self._unpublished = unpublished
        if not unpublished:
            self._rest.change({"metadata": facts_of.records(facts) | self._where_thumbnails_are()})
        self._metadata()  # for the limits of a new collection
        return facts

    def _close_connections(self) -> None:
        self._rest.close()
        if "_writes" in self.__dict__:
            self._writes.close()

    # ------------------------------------------------------------------ asking

    @property
    def _answers(self) -> Answers:
        return Answers(self._place, self.facts.all_fields, self.facts.dimensions)

    def _ask(self, path: str, part: str, body: Mapping[str, Any], expression: Expression | None) -> Any:
        condition = {} if expression is None else {"filter": self._filter(expression)}
        return self._rest.ask(path, part, {**body, **condition})

    def _check_limit(self, limit: int) -> None:
        if self._limits.answers is not None and limit > self._limits.answers:
            raise UsageError(
                f"{self._place}: this collection gives at most {self._limits.answers} images at once (strict mode)"
                f" and {limit} are needed. Give a smaller --limit, or have max_query_limit raised on the server."
            )

    def _filter(self, expression: Expression) -> Any:
        dates = frozenset(n for n, f in self.facts.all_fields.items() if f.type is FieldType.DATE)
        return translate(expression, _FILTERS, dates)
