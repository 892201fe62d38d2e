"""What goes wrong between us and a Qdrant server: what may be tried again, and the sentence for the rest."""

from __future__ import annotations

import json

import httpx

from cxrsearch import settings
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.transport import Unacceptable
from cxrsearch.text import tidy

_LONGEST_REASON = 200


class NoAnswer(Exception):
    """A request that no server answered. too_late: it may have got through, and the answer took too long."""

    def __init__(self, too_late: bool) -> None:
        self.too_late = too_late
        super().__init__()


class Refusal(IndexUnavailable):
    """An answer that is a refusal. ``status``: that of HTTP, 0 where the answer came by gRPC."""

    def __init__(self, place: str, status: int, what: str, reason: str) -> None:
        self.status = status
        # What another node of a cluster may answer otherwise: this one fails, starts, or has lost its data.
        self.is_of_one_node = status >= 500 or status == 404
        said = f": {reason}" if reason else ""
        super().__init__(f"{place}: {what}{said}. {_to_do(status, reason)}".strip())


def unanswered_by_all(place: str, nodes: int, too_late: bool, tries: int) -> IndexUnavailable:
    """What is said when there is no answer at last."""
    if nodes == 1:
        what = "the server gave no answer in time" if too_late else "the server does not answer"
    else:
        what = f"none of the {nodes} nodes answers{' in time' if too_late else ''}, or has caught up with the others"
    return IndexUnavailable(
        f"{place}: {what} (tried {tries} times). Is it running and reachable?"
        " CXRSEARCH_QDRANT_TIMEOUT sets the seconds waited."
    )


def refusal(place: str, status: int, phrase: str, content: bytes) -> Refusal:
    """Of an answer by HTTP. content: its body, in which Qdrant gives its reason."""
    return Refusal(place, status, f"the server answered {status} {tidy(phrase)[:40]}".rstrip(), _reason(content))


def unanswered(place: str, error: httpx.TransportError) -> NoAnswer | IndexUnavailable:
    """A request's failure on the way; NoAnswer where it may be made again."""
    if isinstance(error, Unacceptable):
        return IndexUnavailable(f"{place}: the server {error}. Is it a Qdrant server?")
    return NoAnswer(isinstance(error, httpx.TimeoutException))


def impossible(place: str, what: str = "what Qdrant does not") -> IndexUnavailable:
    """An answer that is none of Qdrant's, or not of this index."""
    return IndexUnavailable(f"{place}: the server answered {what}. Is it a Qdrant server, and whole?")


def one_line(text: str) -> str:
    """A server's own words, fit for a message of ours."""
    return tidy(text)[:_LONGEST_REASON].rstrip(" .")


def _reason(content: bytes) -> str:
    try:
        return one_line(str(json.loads(content)["status"]["error"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # no answer of Qdrant's: of a proxy, and then often a page


def _to_do(status: int, reason: str) -> str:
    """What the reader can do about it."""
    words = reason.lower()
    if status in (401, 403):
        if settings.qdrant_api_key() is None:
            return "Set CXRSEARCH_QDRANT_API_KEY."
        return "The key in CXRSEARCH_QDRANT_API_KEY does not allow this; use one that does."
    if "strict mode" in words or ("limit" in words and status in (400, 0)):
        return "A limit of this collection (strict mode): ask for less, or have it raised on the server."
    if status == 429:
        return "Too many requests for this collection: try again later."
    if "shard" in words or "replica" in words or "consensus" in words:
        return "A node of the server is away or behind: cxrsearch doctor says which; start it again."
    if status >= 500:
        return "Look at the server's log."
    return ""
