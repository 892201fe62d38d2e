"""An index on a Qdrant server: one collection, its facts in the collection's metadata.

The address is ``http://host:6333/collection`` (or https). gRPC is used when the server answers there.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from cxrsearch import settings
from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import Field, FieldType, Payload, Scalar, indexed
from cxrsearch.errors import IndexUnavailable, UsageError
from cxrsearch.store.answers import PAGE, Answers
from cxrsearch.store.contract import EXACT_BELOW_KB, SEARCH_BREADTH, IndexFacts, Point, Scored, check_vectors
from cxrsearch.store.faults import fault_of
from cxrsearch.store.filters import Engine, translate
from cxrsearch.store.thumbnails import Thumbnails
from cxrsearch.store.transport import LONGEST_ANSWER, LimitedTransport

_METADATA_KEY = "cxrsearch"
# The facts of a collection whose copy or restore has not ended; the next one begins anew.
_UNPUBLISHED = {"unpublished": True}
_HNSW = models.HnswConfigDiff(m=32, ef_construct=256)
# Transport errors are tried again after these pauses, in seconds; an answer from the server never is.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_GRPC_PROBE_SECONDS = 3  # a firewall that swallows gRPC packets must not cost the whole time-out
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

T = TypeVar("T")

_FILTERS = Engine(
    match=lambda key, value: models.FieldCondition(key=key, match=models.MatchValue(value=value)),
    match_any=lambda key, values: models.FieldCondition(key=key, match=models.MatchAny(any=list(values))),
    words=lambda key, text: models.FieldCondition(key=key, match=models.MatchText(text=text)),
    number=lambda key, **bounds: models.FieldCondition(key=key, range=models.Range(**bounds)),
    date=lambda key, **bounds: models.FieldCondition(key=key, range=models.DatetimeRange(**bounds)),
    missing=lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
    filter=lambda **parts: models.Filter(**parts),
)


class ServerStore:
    """A VectorStore on one collection of a Qdrant server. Use :meth:`connect`."""

    def __init__(
        self,
        client: QdrantClient,
        collection: str,
        place: str,
        facts: IndexFacts | None = None,
        unpublished: bool = False,
    ) -> None:
        """``place`` names the index in messages. With ``facts``, a missing collection is made; ``unpublished``: it is
        no index before it is closed.

        Raises IndexUnavailable.
        """
        self._client, self._collection, self._place = client, collection, place
        folder = settings.thumbnails()
        self.thumbnails = Thumbnails(folder / collection if folder is not None else None)
        self._unpublished = False
        if facts is not None and unpublished and self._metadata() == _UNPUBLISHED:
            self._call(lambda: client.delete_collection(collection))
        if facts is not None and not self._call(lambda: client.collection_exists(collection)):
            self._create(facts, unpublished)
            self.facts, self._unpublished = facts, unpublished
        else:
            self.facts = self._read_facts()

    @classmethod
    def connect(cls, address: str, facts: IndexFacts | None = None, unpublished: bool = False) -> ServerStore:
        """Raises UsageError for an address that is none, IndexUnavailable when no server answers."""
        url = urlsplit(address)
        collection = url.path.strip("/")
        try:
            port = url.port
        except ValueError:
            port = -1
        if url.scheme not in ("http", "https") or not url.hostname or not collection or "/" in collection or port == -1:
            raise UsageError(f"--index {_without_secret(address)}: write it as http://host:6333/collection")
        if url.username or url.password:
            raise UsageError("--index: put no password in the address; set CXRSEARCH_QDRANT_API_KEY")
        server = f"{url.scheme}://{url.hostname}:{port or 6333}"
        if settings.qdrant_api_key() and url.scheme == "http" and url.hostname not in _THIS_MACHINE:
            logging.getLogger("cxrsearch").warning(f"the API key goes to {url.hostname} unencrypted; use https")
        client = _client(server)
        return cls(client, collection, f"{server}/{collection}", facts, unpublished)

    def declare(self, facts: IndexFacts) -> None:
        self._index_fields({n: f for n, f in facts.fields.items() if n not in self.facts.fields})
        if not self._unpublished:
            self._write_metadata(facts.as_json())
        self.facts = facts

    def upsert(self, points: Sequence[Point]) -> None:
        vectors = check_vectors(points, self.facts.dimensions)
        made: list[models.PointStruct] = [
            models.PointStruct(id=point.id, vector=vector.tolist(), payload=dict(point.payload))
            for point, vector in zip(points, vectors, strict=True)
        ]
        self._call(lambda: self._client.upsert(self._collection, points=made, wait=True))

    def set_payloads(self, payloads: Mapping[str, Payload]) -> None:
        operations = [
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload=dict(payload), points=[id]))
            for id, payload in payloads.items()
        ]
        self._call(lambda: self._client.batch_update_points(self._collection, operations, wait=True))

    def query(self, vector: NDArray[np.float32], limit: int, expression: Expression | None = None) -> list[Scored]:
        return self._query(vector.tolist(), limit, expression)

    def recommend(
        self,
        positives: Sequence[NDArray[np.float32]],
        negatives: Sequence[NDArray[np.float32]],
        limit: int,
        expression: Expression | None = None,
    ) -> list[Scored]:
        examples = models.RecommendInput(
            positive=[vector.tolist() for vector in positives],
            negative=[vector.tolist() for vector in negatives],
            strategy=models.RecommendStrategy.SUM_SCORES,
        )
        return self._query(models.RecommendQuery(recommend=examples), limit, expression)

    def _query(self, query: Any, limit: int, expression: Expression | None) -> list[Scored]:
        found = self._call(
            lambda: self._client.query_points(
                self._collection,
                query=query,
                limit=limit,
                query_filter=self._filter(expression),
                with_payload=True,
                search_params=models.SearchParams(hnsw_ef=max(SEARCH_BREADTH, limit)),
            )
        )
        return self._answers.neighbours(found.points, limit)

    def scroll(
        self, expression: Expression | None = None, fields: Collection[str] | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        return self._answers.points(self._pages(expression, fields, vectors), vectors)

    def _pages(
        self, expression: Expression | None, fields: Collection[str] | None, vectors: bool
    ) -> Iterator[Sequence[Any]]:
        offset: Any = None
        while True:
            # offset is bound now: the lambda may run again after a transport error
            records, offset = self._call(
                lambda at=offset: self._client.scroll(  # type: ignore[misc]
                    self._collection,
                    scroll_filter=self._filter(expression),
                    limit=PAGE,
                    offset=at,
                    with_payload=True if fields is None else list(fields),
                    with_vectors=vectors,
                )
            )
            yield records
            if offset is None:
                return

    def count(self, expression: Expression | None = None) -> int:
        wanted = self._filter(expression)
        found = self._call(lambda: self._client.count(self._collection, count_filter=wanted, exact=True))
        return self._answers.count(found.count)

    def values(self, field: str, expression: Expression | None = None) -> Mapping[Scalar, int]:
        limit, wanted = max(1, self.count()), self._filter(expression)
        found = self._call(
            lambda: self._client.facet(self._collection, key=field, limit=limit, exact=True, facet_filter=wanted)
        )
        return self._answers.values(found.hits, field)

    def delete(self, expression: Expression) -> int:
        count, condition = self.count(expression), self._filter(expression)
        assert condition is not None
        self.thumbnails.remove([point.id for point in self.scroll(expression, fields=[])])
        selector = models.FilterSelector(filter=condition)
        self._call(lambda: self._client.delete(self._collection, points_selector=selector, wait=True))
        return count

    def erase(self, expression: Expression, facts: IndexFacts) -> int:
        """Deleted; when its bytes leave the server's disk is up to its optimiser."""
        self.declare(facts)  # first: a run that is killed here can be repeated
        return self.delete(expression)

    def optimise(self) -> None:
        """The server builds its graph by itself, in the background."""

    def size_bytes(self) -> int | None:
        return None

    def problems(self) -> Iterator[str]:
        """Of the thumbnails; the server answers for its own files."""
        return self.thumbnails.problems()

    def close(self) -> None:
        if self._unpublished:
            self._write_metadata(self.facts.as_json())
        self._client.close()

    def abandon(self) -> None:
        if self._unpublished:
            self._call(lambda: self._client.delete_collection(self._collection))
            self.thumbnails.remove(self.thumbnails.unsettled)
        self._client.close()

    @property
    def _answers(self) -> Answers:
        return Answers(self._place, self.facts.all_fields, self.facts.dimensions)

    def _create(self, facts: IndexFacts, unpublished: bool) -> None:
        vectors = models.VectorParams(size=facts.dimensions, distance=models.Distance.DOT)
        optimizers = models.OptimizersConfigDiff(indexing_threshold=EXACT_BELOW_KB)
        self._call(
            lambda: self._client.create_collection(
                self._collection, vectors_config=vectors, hnsw_config=_HNSW, optimizers_config=optimizers
            )
        )
        self._index_fields(facts.all_fields)
        # Last: a collection without it is not an index yet.
        self._write_metadata(_UNPUBLISHED if unpublished else facts.as_json())

    def _write_metadata(self, facts: dict[str, Any]) -> None:
        metadata = {_METADATA_KEY: facts}
        self._call(lambda: self._client.update_collection(self._collection, metadata=metadata))

    def _metadata(self) -> Any:
        if not self._call(lambda: self._client.collection_exists(self._collection)):
            return None
        return (self._call(lambda: self._client.get_collection(self._collection)).config.metadata or {}).get(
            _METADATA_KEY
        )

    def _read_facts(self) -> IndexFacts:
        if not self._call(lambda: self._client.collection_exists(self._collection)):
            raise IndexUnavailable(
                f"{self._place}: no such index. Make one with: cxrsearch index DATASET --index {self._place}"
            )
        metadata = self._metadata()
        if metadata == _UNPUBLISHED:
            raise IndexUnavailable(f"{self._place}: a copy or restore into it has not ended. Run it again.")
        return IndexFacts.from_json(metadata, self._place)

    def _index_fields(self, fields: Mapping[str, Field]) -> None:
        for name, kind in indexed(fields).items():
            self._call(
                lambda n=name, k=kind: self._client.create_payload_index(  # type: ignore[misc]
                    self._collection, field_name=n, field_schema=_schema(k), wait=True
                )
            )

    def _filter(self, expression: Expression | None) -> models.Filter | None:
        if expression is None:
            return None
        dates = frozenset(n for n, f in self.facts.all_fields.items() if f.type is FieldType.DATE)
        made: models.Filter = translate(expression, _FILTERS, dates)
        return made

    def _call(self, request: Callable[[], T]) -> T:
        """The request's answer; transport errors are tried again, then reported."""
        for tries, pause in enumerate((*_PAUSES, None), start=1):
            try:
                return request()
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
                if pause is None or tries == fault.tries:
                    times = f" (tried {tries} times)" if fault.tries != 1 else ""
                    raise IndexUnavailable(f"{self._place}: the server {fault.text}{times}.{fault.hint}") from None
                time.sleep(pause)
        raise AssertionError("unreachable: the last pause is None")


def _client(server: str) -> QdrantClient:
    """A client that speaks gRPC where the server does, else REST."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a key sent without encryption: connect() has said so in our words
        seconds = settings.qdrant_timeout()
        options: dict[str, Any] = {
            "url": server,
            "api_key": settings.qdrant_api_key(),
            "check_compatibility": False,
            "grpc_options": {"grpc.max_receive_message_length": LONGEST_ANSWER},
        }
        probe = QdrantClient(**options, prefer_grpc=True, timeout=_GRPC_PROBE_SECONDS)
        try:
            probe.get_collections()
            grpc_answers = True
        except Exception:  # whatever stands in the way of gRPC, REST gives the error worth reading
            grpc_answers = False
        finally:
            probe.close()
        limited = LimitedTransport(server, seconds)
        return QdrantClient(**options, prefer_grpc=grpc_answers, timeout=seconds, transport=limited)


def _schema(kind: FieldType) -> Any:
    match kind:
        case FieldType.KEYWORD:
            return models.PayloadSchemaType.KEYWORD
        case FieldType.INTEGER:
            return models.PayloadSchemaType.INTEGER
        case FieldType.FLOAT:
            return models.PayloadSchemaType.FLOAT
        case FieldType.BOOLEAN:
            return models.PayloadSchemaType.BOOL
        case FieldType.DATE:
            return models.PayloadSchemaType.DATETIME
        case FieldType.TEXT:
            return models.TextIndexParams(type="text", tokenizer=models.TokenizerType.WORD, lowercase=True)  # type: ignore[arg-type]


def _without_secret(address: str) -> str:
    return address.rsplit("@", 1)[-1]
