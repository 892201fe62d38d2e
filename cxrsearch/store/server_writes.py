"""What is written to a Qdrant server, by qdrant-client: over HTTP, or over gRPC where the address names its port."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from cxrsearch import settings
from cxrsearch.clinical.fields import Field, FieldType, Payload, indexed
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.address import ServerAddress
from cxrsearch.store.contract import Point
from cxrsearch.store.nodes import Nodes
from cxrsearch.store.placement import Placement
from cxrsearch.store.refusals import NoAnswer, Refusal, impossible, one_line, refusal, unanswered
from cxrsearch.store.rest import CONNECT_SECONDS
from cxrsearch.store.server_graph import NEVER
from cxrsearch.store.transport import LONGEST_ANSWER, LimitedTransport

# Changes of one point reach its replicas in one order: that of the replica that leads now.
_ORDERING = models.WriteOrdering.MEDIUM
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# The state of HTTP for a code of gRPC, so that the sentence for either is the same.
_STATUS = {
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.INTERNAL: 500,
}
# What the client raises for an answer that is JSON of another shape, or none: pydantic's errors are ValueErrors.
_OTHER_SHAPES = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError, OverflowError)

T = TypeVar("T")


class ServerWrites:
    """The changes of one collection, of whose nodes one is asked. A change is acknowledged by as many replicas as the
    collection says, and made on one after the other through the same node. Every method raises IndexUnavailable."""

    def __init__(self, address: ServerAddress, nodes: Nodes) -> None:
        self._address, self._name, self._nodes = address, address.collection, nodes
        self._clients: dict[int, QdrantClient] = {}

    def _client(self, node: int) -> QdrantClient:
        if node not in self._clients:
            url, seconds = self._address.urls[node], settings.qdrant_timeout()
            connect_seconds = CONNECT_SECONDS if self._nodes.is_cluster else None
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # of a key sent without encryption: ServerStore has said so in our words
                self._clients[node] = QdrantClient(
                    url=url,
                    api_key=settings.qdrant_api_key(),
                    check_compatibility=False,
                    prefer_grpc=self._address.grpc_port is not None,
                    grpc_port=self._address.grpc_port or 0,
                    grpc_options={"grpc.max_receive_message_length": LONGEST_ANSWER},
                    timeout=seconds,
                    transport=LimitedTransport(url, seconds, connect_seconds),
                )
        return self._clients[node]

    def create(self, dimensions: int, metadata: dict[str, Any], placement: Placement | None) -> bool:
        """Make the collection; False where it was there already."""
        placement = placement or Placement()
        vectors = models.VectorParams(size=dimensions, distance=models.Distance.DOT)
        optimizers = models.OptimizersConfigDiff(indexing_threshold=NEVER)
        try:
            self._call(
                lambda client: client.create_collection(
                    self._name,
                    vectors_config=vectors,
                    optimizers_config=optimizers,
                    shard_number=placement.shards,
                    replication_factor=placement.replicas,
                    write_consistency_factor=placement.acknowledging,
                    metadata=metadata,
                )
            )
        except Refusal as error:
            if error.status == 409 or "already exists" in str(error):
                return False
            raise
        return True

    def index_fields(self, fields: Mapping[str, Field]) -> None:
        for name, kind in indexed(fields).items():
            self._call(
                lambda client, n=name, k=kind: client.create_payload_index(  # type: ignore[misc]
                    self._name, field_name=n, field_schema=_schema(k), wait=True
                )
            )

    def upsert(self, points: Sequence[Point], vectors: Sequence[NDArray[np.float32]]) -> None:
        made = [
            models.PointStruct(id=point.id, vector=vector.tolist(), payload=dict(point.payload))
            for point, vector in zip(points, vectors, strict=True)
        ]
        self._call(lambda client: client.upsert(self._name, points=made, wait=True, ordering=_ORDERING))

    def set_payloads(self, payloads: Mapping[str, Payload]) -> None:
        # By filter: by id, the first point that another process has deleted would end the rest.
        operations = [
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(
                    payload=dict(payload), filter=models.Filter(must=[models.HasIdCondition(has_id=[id])])
                )
            )
            for id, payload in payloads.items()
        ]
        self._call(lambda client: client.batch_update_points(self._name, operations, wait=True, ordering=_ORDERING))

    def drop(self) -> None:
        self._call(lambda client: client.delete_collection(self._name))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _call(self, request: Callable[[QdrantClient], T]) -> T:
        def answered(node: int, hurried: bool) -> T:
            try:
                return request(self._client(node))
            except Exception as error:
                if (fault := fault_of(error, self._address.place)) is None:
                    raise
                raise fault from None

        return self._nodes.ask(answered)


def fault_of(error: Exception, place: str) -> NoAnswer | IndexUnavailable | None:
    """What an error of the client means; None for what is no fault of a server."""
    if isinstance(error, ResponseHandlingException):
        error = error.source
    match error:
        case httpx.TransportError():
            return unanswered(place, error)
        case UnexpectedResponse():
            return refusal(place, error.status_code or 0, error.reason_phrase, error.content)
        case QdrantException():
            return Refusal(place, 429, "the server is too busy", "")
        case grpc.RpcError():
            return _of_grpc(error, place)
    return impossible(place) if isinstance(error, _OTHER_SHAPES) else None


def _of_grpc(error: Any, place: str) -> NoAnswer | IndexUnavailable:
    code = error.code()
    if code in _NO_ANSWER:
        return NoAnswer(code is grpc.StatusCode.DEADLINE_EXCEEDED)
    what = f"the server refused ({code.name.lower()})"
    return Refusal(place, _STATUS.get(code, 0), what, one_line(str(error.details() or "")))


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
