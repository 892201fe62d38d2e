"""Questions to a Qdrant server or cluster, by HTTP.

Not by qdrant-client: its import takes as long as a whole search of a folder (the models of every request there is).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from cxrsearch import settings
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.address import ServerAddress
from cxrsearch.store.nodes import Nodes, each
from cxrsearch.store.refusals import NoAnswer, Refusal, impossible, one_line, refusal, unanswered
from cxrsearch.store.transport import LimitedTransport

# Of a cluster: seconds for a connection to a node, and for its answer, before the next one is asked.
CONNECT_SECONDS = 3.0
HURRIED_SECONDS = 5.0
# Objects among the settings of a collection.
_SETTINGS = ("metadata", "strict_mode_config", "optimizer_config", "params")


class Rest:
    """Requests about one collection of one server or cluster; nothing else ever answers for it: redirections are not
    followed. ``nodes``: whose turn it is."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self.nodes = Nodes(address.place, address.urls)
        key, seconds = settings.qdrant_api_key(), settings.qdrant_timeout()
        connect_seconds = CONNECT_SECONDS if self.nodes.is_cluster else None
        self._http = [
            httpx.Client(
                base_url=url,
                headers={} if key is None else {"api-key": key},
                timeout=seconds,
                transport=LimitedTransport(url, seconds, connect_seconds),
            )
            for url in address.urls
        ]

    def ask(self, path: str, part: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The result of ``POST /collections/NAME/path``, which has this part. Raises IndexUnavailable."""
        found = self._result("POST", f"{self._address.path}/{path}", body)
        if not isinstance(found, dict) or part not in found:
            raise impossible(self._address.place)
        return found

    def ask_each(self, path: str, part: str, bodies: Sequence[Mapping[str, Any]]) -> list[Any]:
        """This part of the result of each of several searches that are sent as one. Raises IndexUnavailable."""
        found = self._result("POST", f"{self._address.path}/{path}", {"searches": bodies})
        try:
            parts = [one[part] for one in found]
        except (TypeError, LookupError):
            raise impossible(self._address.place) from None
        if len(parts) != len(bodies):
            raise impossible(self._address.place)
        return parts

    def change(self, body: Mapping[str, Any]) -> None:
        """Change the collection's settings. Raises IndexUnavailable."""
        self._result("PATCH", self._address.path, body)

    def collection(self) -> dict[str, Any] | None:
        """What the server says of the collection; None where there is none of this name. Raises IndexUnavailable."""
        try:
            return self._collection(self._result("GET", self._address.path))
        except Refusal as error:
            if error.status == 404:
                return None
            raise

    def collections(self) -> dict[str, dict[str, Any] | IndexUnavailable | None]:
        """As :meth:`collection`, of every node, by its address: {} where it has none, None where it does not answer."""

        def of(node: int) -> dict[str, Any]:
            try:
                return self._collection(self.of_node(node, "GET", self._address.path))
            except Refusal as error:
                if error.status == 404:
                    return {}
                raise

        return each(self.nodes, of)

    def clusters(self) -> dict[str, Any]:
        """What each node says of its cluster, by its address; None where it does not answer.

        Raises IndexUnavailable."""
        found = each(self.nodes, lambda node: self.of_node(node, "GET", "/cluster"))
        return {url: _shown(view) for url, view in found.items()}

    def shards(self) -> Any:
        """What the server says of the collection's shards and their replicas. Raises IndexUnavailable."""
        return self._result("GET", f"{self._address.path}/cluster")

    def snapshots(self) -> list[str]:
        """The names of the collection's snapshots, on each node that answers. Raises IndexUnavailable."""
        lists = each(self.nodes, lambda node: self.of_node(node, "GET", f"{self._address.path}/snapshots"))
        try:
            return sorted({one_line(str(one["name"])) for found in lists.values() for one in _shown(found) or []})
        except (TypeError, LookupError):
            raise impossible(self._address.place) from None

    def check_ready(self, node: int) -> None:
        """Raises NoAnswer where a node of a cluster has not caught up with the others."""
        response = self._send(node, "GET", "/readyz", None, True)
        if not response.is_success:
            raise NoAnswer(too_late=False)

    def of_node(self, node: int, method: str, path: str) -> Any:
        """The result of a request to one node. Raises NoAnswer, IndexUnavailable."""
        return self._read(self._send(node, method, path, None, self.nodes.is_cluster))

    def close(self) -> None:
        for client in self._http:
            client.close()

    def _result(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.nodes.ask(lambda node, hurried: self._read(self._send(node, method, path, body, hurried)))

    def _send(self, node: int, method: str, path: str, body: Mapping[str, Any] | None, hurried: bool) -> httpx.Response:
        limit = {"timeout": HURRIED_SECONDS} if hurried else {}
        try:
            return self._http[node].request(method, path, json=body, **limit)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            raise unanswered(self._address.place, error) from None

    def _read(self, response: httpx.Response) -> Any:
        if not response.is_success:
            raise refusal(self._address.place, response.status_code, response.reason_phrase, response.content)
        try:
            return response.json()["result"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise impossible(self._address.place) from None

    def _collection(self, found: Any) -> dict[str, Any]:
        config = found.get("config") if isinstance(found, dict) else None
        if (
            not isinstance(found, dict)
            or not isinstance(config, dict)
            or not all(isinstance(config.get(name) or {}, dict) for name in _SETTINGS)
            or not isinstance(found.get("segments_count") or 1, int)
        ):
            raise impossible(self._address.place)
        return found


def _shown(found: Any) -> Any:
    """What a node answered; raises what it refused with."""
    if isinstance(found, IndexUnavailable):
        raise found
    return found
