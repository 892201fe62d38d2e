"""Where an index on a server is: the address that ``--index`` gives, taken at its word.

http://host:6333/collection               (or https) everything is asked of this port and of no other
http://host:6333/collection?grpc=6334     images are written by gRPC, at the port that is named
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cxrsearch.errors import UsageError

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_FORM = "write it as http://host:6333/collection"
_PORT = 6333


@dataclass(frozen=True)
class ServerAddress:
    """url: ``http://host:6333``. grpc_port: of the same server; None where none was given, and then none is tried: what
    listens beside a port may be another server."""

    url: str
    host: str
    collection: str
    grpc_port: int | None = None

    @property
    def place(self) -> str:
        """What messages call the index."""
        return f"{self.url}/{self.collection}"

    @property
    def path(self) -> str:
        """Of the collection, in requests."""
        return f"/collections/{quote(self.collection, safe='')}"

    @property
    def is_open_network(self) -> bool:
        """Whether what is sent can be read on its way."""
        return self.url.startswith("http:") and self.host not in _THIS_MACHINE


def parse_address(address: str) -> ServerAddress:
    """Raises UsageError for an address that is none; a password in it is not repeated."""
    url = urlsplit(address)
    collection = unquote(url.path.strip("/"))
    shown = f"--index {address.rsplit('@', 1)[-1]}"
    try:
        port = url.port
    except ValueError:
        raise UsageError(f"{shown}: {_FORM}") from None
    if url.scheme not in ("http", "https") or not url.hostname or not collection or "/" in collection or url.fragment:
        raise UsageError(f"{shown}: {_FORM}")
    if url.username or url.password:
        raise UsageError("--index: put no password in the address; set CXRSEARCH_QDRANT_API_KEY")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return ServerAddress(
        f"{url.scheme}://{host}:{port or _PORT}", url.hostname, collection, _grpc_port(shown, url.query)
    )


def _grpc_port(shown: str, query: str) -> int | None:
    if not query:
        return None
    given = parse_qs(query, keep_blank_values=True)
    text = given.get("grpc", [""])[0]
    if set(given) != {"grpc"} or not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise UsageError(f"{shown}: after ? comes grpc= and the port of the same server's gRPC, such as ?grpc=6334")
    return int(text)
