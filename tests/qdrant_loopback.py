"""A Qdrant server for tests: the requests that cxrsearch makes, answered on loopback by qdrant-client's local mode.

Objects come back in another order each time, as from a real server; refusals are shaped as a real one's.
"""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from qdrant_client import QdrantClient, models


class Loopback:
    """One server. ``asked``: method and path of every request, in order; ``strict``: what a collection allows;
    ``refuse``: gives (status, body) for a request that is to be refused, else None; ``cluster``, ``shards``: what it
    says of its nodes, and of a collection's shards; ``replicas``, ``segments``: how many every collection has. Of
    several servers with one ``client`` each is a node."""

    def __init__(self, client: QdrantClient | None = None) -> None:
        self.client = client or QdrantClient(":memory:")
        self.cluster: dict[str, Any] = {"status": "disabled"}
        self.shards: dict[str, Any] = {"peer_id": 1, "local_shards": [], "remote_shards": []}
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.replicas, self.segments = 1, 1
        self.strict: dict[str, Any] | None = None
        self.snapshots: list[str] = []
        self.refuse: Callable[[str, str, Any], tuple[int, bytes] | None] = lambda method, path, body: None
        self._lock = threading.Lock()
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, method: str, target: str, body: Any) -> tuple[int, bytes]:
        path = urlsplit(target).path
        with self._lock:
            self.asked.append(f"{method} {path}")
            self.bodies.append(body)
            if (refused := self.refuse(method, path, body)) is not None:
                return refused
            try:
                found = self._result(method, path.strip("/").split("/"), body)
            except KeyError as error:
                return error.args[0], json.dumps({"status": {"error": error.args[1]}}).encode()
            except Exception as error:
                return 400, json.dumps({"status": {"error": f"Wrong input: {error}"}}).encode()
        return 200, json.dumps({"result": _shuffled(found), "status": "ok", "time": 0.0}).encode()

    def _result(self, method: str, parts: list[str], body: Any) -> Any:
        if parts == ["readyz"]:
            return "ready"
        if parts == ["cluster"]:
            return self.cluster
        if parts == ["collections"]:
            return {"collections": [{"name": one.name} for one in self.client.get_collections().collections]}
        name, rest, client = unquote(parts[1]), "/".join(parts[2:]), self.client
        exists = client.collection_exists(name)
        match method, rest:
            case "PUT", "":
                if exists:
                    raise KeyError(409, f"Wrong input: Collection `{name}` already exists!")
                made = models.CreateCollection(**body)
                return client.create_collection(name, vectors_config=made.vectors, metadata=made.metadata)
            case _ if not exists:
                raise KeyError(404, f"Not found: Collection `{name}` doesn't exist!")
            case "GET", "":
                info = _plain(client.get_collection(name))
                info["config"]["strict_mode_config"] = self.strict
                info["config"]["params"]["replication_factor"] = self.replicas
                info["segments_count"] = self.segments
                return info
            case "PATCH", "":
                return client.update_collection(name, metadata=body.get("metadata"))
            case "DELETE", "":
                return client.delete_collection(name)
            case "GET", "cluster":
                return self.shards
            case "GET", "snapshots":
                return [{"name": one} for one in self.snapshots]
            case "PUT", "index":
                return {"status": "completed", "operation_id": 0}
            case "PUT", "points":
                return _plain(client.upsert(name, models.PointsList(**body).points))
            case "POST", "points/batch":
                return [_plain(client.batch_update_points(name, models.UpdateOperations(**body).operations))][0]
            case "POST", "points/delete":
                return _plain(client.delete(name, models.FilterSelector(**body)))
            case "POST", "points/count":
                return _plain(client.count(name, models.Filter(**body["filter"]) if "filter" in body else None))
            case "POST", "points/query":
                return self._query(name, body)
            case "POST", "points/query/batch":
                return [self._query(name, one) for one in body["searches"]]
            case "POST", "points/scroll":
                asked = models.ScrollRequest(**body)
                found, offset = client.scroll(
                    name,
                    asked.filter,
                    limit=asked.limit or 10,
                    offset=asked.offset,
                    with_payload=asked.with_payload,
                    with_vectors=asked.with_vector or False,
                )
                return {"points": _plain(found), "next_page_offset": offset}
            case "POST", "facet":
                asked = models.FacetRequest(**body)
                return _plain(client.facet(name, asked.key, asked.filter, limit=asked.limit or 10, exact=True))
        raise KeyError(404, f"no such request here: {method} {rest}")

    def _query(self, name: str, body: Any) -> Any:
        asked = models.QueryRequest(**body)
        found = self.client.query_points(
            name, asked.query, query_filter=asked.filter, limit=asked.limit, with_vectors=asked.with_vector or False
        )
        return _plain(found)


@contextmanager
def loopback(client: QdrantClient | None = None) -> Iterator[Loopback]:
    server = Loopback(client)
    try:
        yield server
    finally:
        server.close()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.model_dump(mode="json", exclude_none=True)


def _shuffled(value: Any) -> Any:
    if isinstance(value, list):
        return [_shuffled(one) for one in value]
    if isinstance(value, dict):
        return {key: _shuffled(one) for key, one in random.sample(list(value.items()), len(value))}
    return value


def _handler(server: Loopback) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 2**16  # headers and body at once: two packets would wait for each other

        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content = server.answer(self.command, self.path, body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    return Handler
