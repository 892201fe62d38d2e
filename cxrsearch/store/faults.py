"""What went wrong with a request to a Qdrant server, as a sentence, and whether to ask again."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from cxrsearch.store.transport import Unacceptable
from cxrsearch.text import tidy

_LONGEST_REASON = 60
_HINT = " Is it running and reachable? CXRSEARCH_QDRANT_TIMEOUT sets the seconds waited."
# What the client raises for an answer that is JSON of another shape, or none: pydantic's errors are ValueErrors.
_OTHER_SHAPES = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Fault:
    """text: completes "the server ..."; tries: how often to ask before it counts, None: as long as there is patience.
    hint: what to do next."""

    text: str
    tries: int | None = 1
    hint: str = " Is it a Qdrant server?"


def fault_of(error: Exception) -> Fault | None:
    """None for what is no fault of a server."""
    if isinstance(error, ResponseHandlingException):
        error = error.source
    match error:
        case Unacceptable():
            return Fault(str(error))
        case httpx.TimeoutException():
            return Fault("gave no answer in time", 2, _HINT)
        case httpx.TransportError():
            return Fault("does not answer", None, _HINT)
        case grpc.RpcError():
            return _of_grpc(error.code())
        case UnexpectedResponse():
            hint = " Set CXRSEARCH_QDRANT_API_KEY." if error.status_code in (401, 403) else ""
            return Fault(f"answered {error.status_code} {tidy(error.reason_phrase)[:_LONGEST_REASON]}", hint=hint)
        case QdrantException():
            return Fault("is too busy", hint=" Try again later.")
    if isinstance(error, _OTHER_SHAPES):
        return Fault(f"answered what Qdrant does not ({type(error).__name__})")
    return None


def _of_grpc(code: grpc.StatusCode) -> Fault:
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Fault("gave no answer in time", 2, _HINT)
        case grpc.StatusCode.UNAVAILABLE:
            return Fault("does not answer", None, _HINT)
    return Fault(f"refused ({code.name.lower()})", hint="")
