"""Where an index on a server is: the address that ``--index`` gives, taken at its word.

http://host:6333/collection               (or https) everything is asked of this port and of no other
http://a:6333,b:6333,c:6333/collection    the nodes of one cluster: the next one is asked where one does not answer
http://host:6333/collection?grpc=6334     images are written by gRPC, at the port that is named
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from cxrsearch.errors import UsageError

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_FORM = "write it as http://host:6333/collection, and the nodes of a cluster as http://a:6333,b:6333/collection"
_PORT = 6333


@dataclass(frozen=True)
class ServerAddress:
    """urls: ``http://host:6333`` of each node, in the order they are asked. grpc_port: of the same servers; None where
    none was given, and then none is tried: what listens beside a port may be another server."""

    urls: tuple[str, ...]
    hosts: tuple[str, ...]
    collection: str
    grpc_port: int | None = None

    @property
    def place(self) -> str:
        """What messages call the index."""
        first, *others = self.urls
        return ",".join([first, *(url.split("://")[1] for url in others)]) + f"/{self.collection}"

    @property
    def path(self) -> str:
        """Of the collection, in requests."""
        return f"/collections/{quote(self.collection, safe='')}"

    @property
    def open_hosts(self) -> list[str]:
        """The hosts to which what is sent can be read on its way."""
        return [host for host in self.hosts if self.urls[0].startswith("http:") and host not in _THIS_MACHINE]

    def is_index_of(self, other: ServerAddress) -> bool:
        """Whether both are one index: of one name, with a node in common."""
        return self.collection == other.collection and not set(self.urls).isdisjoint(other.urls)


def parse_address(address: str) -> ServerAddress:
    """Raises UsageError for an address that is none; a password in it is not repeated."""
    shown = f"--index {address.rsplit('@', 1)[-1]}"
    try:
        url = urlsplit(address)
        nodes = [urlsplit(f"{url.scheme}://{node}") for node in url.netloc.split(",")]
        ports = [node.port or _PORT for node in nodes]
    except ValueError:
        raise UsageError(f"{shown}: {_FORM}") from None
    collection, hosts = unquote(url.path.strip("/")), [node.hostname or "" for node in nodes]
    if url.scheme not in ("http", "https") or not all(hosts) or not collection or "/" in collection or url.fragment:
        raise UsageError(f"{shown}: {_FORM}")
    if any(node.username or node.password for node in nodes):
        raise UsageError("--index: put no password in the address; set CXRSEARCH_QDRANT_API_KEY")
    bracketed = [f"[{host}]" if ":" in host else host for host in hosts]
    urls = tuple(f"{url.scheme}://{host}:{port}" for host, port in zip(bracketed, ports, strict=True))
    if len(set(urls)) < len(urls):
        raise UsageError(f"{shown}: names one node twice")
    return ServerAddress(urls, tuple(hosts), collection, _grpc_port(shown, url.query))


def _grpc_port(shown: str, query: str) -> int | None:
    if not query:
        return None
    given = parse_qs(query, keep_blank_values=True)
    text = given.get("grpc", [""])[0]
    if set(given) != {"grpc"} or not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise UsageError(f"{shown}: after ? comes grpc= and the port of the same server's gRPC, such as ?grpc=6334")
    return int(text)
