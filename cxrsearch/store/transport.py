"""HTTP to a server that may be anybody's: each request is limited in time as a whole, each answer in bytes.

httpx limits the time between two bytes, so that a server that drips keeps it for hours; it reads whatever comes, and
unpacks what is compressed to any size. Here nothing is asked for compressed, and what is all the same is refused.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

# A thousand points of 2,048 dimensions are 45 MiB of JSON.
LONGEST_ANSWER = 128 * 2**20
# What is handed to the network at once, so that the time is looked at while a long request is sent.
_PIECE = 64 * 2**10
_KEPT_SECONDS = 5  # a connection that nobody uses


class Unacceptable(httpx.TransportError):
    """An answer that is not read to its end; asking again would bring the same. The message completes "it ..."."""


class LimitedTransport(httpx.BaseTransport):
    """For ``httpx.Client(transport=...)``: connections to one server.

    server: its address, ``http://host:port``; seconds: for a request and its answer together, less where the request
    says so (httpx's ``timeout``); connect_seconds: for a connection, where another server can be asked instead.
    Raises httpx.TimeoutException, Unacceptable, or another httpx.TransportError. Proxies of the environment are used.
    """

    def __init__(self, server: str, seconds: float, connect_seconds: float | None = None) -> None:
        self._seconds = seconds
        self._network = _Network(connect_seconds or seconds)
        url = urlsplit(server)
        proxies = {} if proxy_bypass(url.hostname or "") else getproxies()
        proxy = proxies.get(url.scheme) or proxies.get("all")
        options: dict[str, Any] = {
            "network_backend": self._network,
            "ssl_context": httpx.create_ssl_context(),
            "keepalive_expiry": _KEPT_SECONDS,
        }
        self._connections: httpcore.ConnectionPool = (
            httpcore.HTTPProxy(proxy, **options) if proxy else httpcore.ConnectionPool(**options)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        given = request.extensions.get("timeout", {}).get("read")
        self._network.limit(self._seconds if given is None else min(given, self._seconds))
        request.headers["Accept-Encoding"] = "identity"
        url = request.url
        assert isinstance(request.stream, httpx.SyncByteStream)
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = self._connections.handle_request(asked)
        except _FAULTS as error:
            raise _in_httpx(error) from error
        assert isinstance(answer.stream, Iterable)
        body = _Body(answer.stream)
        packed = httpx.Headers(answer.headers).get("content-encoding", "identity")
        if packed.strip().lower() not in ("", "identity"):
            body.close()
            raise Unacceptable("sent a compressed answer, which was not asked for")
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    def close(self) -> None:
        self._connections.close()


class _Body(httpx.SyncByteStream):
    """An answer's bytes, up to the longest."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        try:
            for part in self._parts:
                length += len(part)
                if length > LONGEST_ANSWER:
                    raise Unacceptable(f"sent an answer of more than {LONGEST_ANSWER // 2**20} MiB")
                yield part
        except _FAULTS as error:
            raise _in_httpx(error) from error

    def close(self) -> None:
        if hasattr(self._parts, "close"):
            self._parts.close()


_FAULTS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


def _in_httpx(error: Exception) -> httpx.TransportError:
    kind = httpx.ReadTimeout if isinstance(error, httpcore.TimeoutException) else httpx.TransportError
    return kind(str(error))


# ------------------------------------------------------------------ the time of a request


class _Network(httpcore.SyncBackend):
    """Connections whose every wait ends when the time of this thread's request does."""

    def __init__(self, connect_seconds: float) -> None:
        self._of_thread = threading.local()
        self._connect_seconds = connect_seconds

    def limit(self, seconds: float) -> None:
        self._of_thread.end = time.monotonic() + seconds

    def remaining(self, timeout: float | None) -> float:
        """Of a wait that may take ``timeout``. Raises httpcore.ReadTimeout when the request's time is over."""
        left: float = self._of_thread.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the request took too long as a whole")
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = min(self.remaining(timeout), self._connect_seconds)
        made = super().connect_tcp(host, port, seconds, local_address, socket_options)
        return _Stream(made, self)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner, self._network = inner, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._network.remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[at : at + _PIECE], self._network.remaining(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        made = self._inner.start_tls(ssl_context, server_hostname, self._network.remaining(timeout))
        return _Stream(made, self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
