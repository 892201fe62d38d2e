"""Questions to a Qdrant server, by HTTP.

Not by qdrant-client: its import takes as long as a whole search of a folder (the models of every request there is).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from cxrsearch import settings
from cxrsearch.store.address import ServerAddress
from cxrsearch.store.refusals import Refusal, impossible, one_line, persist, refusal, unanswered
from cxrsearch.store.transport import LimitedTransport

# Objects among the settings of a collection.
_SETTINGS = ("metadata", "strict_mode_config", "optimizer_config")


class Rest:
    """Requests about one collection of one server; nothing else ever answers for it: redirections are not followed."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        key, seconds = settings.qdrant_api_key(), settings.qdrant_timeout()
        self._http = httpx.Client(
            base_url=address.url,
            headers={} if key is None else {"api-key": key},
            timeout=seconds,
            transport=LimitedTransport(address.url, seconds),
        )

    def ask(self, path: str, part: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The result of ``POST /collections/NAME/path``, which has this part. Raises IndexUnavailable."""
        found = self._result("POST", f"{self._address.path}/{path}", body)
        if not isinstance(found, dict) or part not in found:
            raise impossible(self._address.place)
        return found

    def change(self, body: Mapping[str, Any]) -> None:
        """Change the collection's settings. Raises IndexUnavailable."""
        self._result("PATCH", self._address.path, body)

    def collection(self) -> dict[str, Any] | None:
        """What the server says of the collection; None where there is none of this name. Raises IndexUnavailable."""
        try:
            found = self._result("GET", self._address.path)
        except Refusal as error:
            if error.status == 404:
                return None
            raise
        config = found.get("config") if isinstance(found, dict) else None
        if (
            not isinstance(found, dict)
            or not isinstance(config, dict)
            or not all(isinstance(config.get(name) or {}, dict) for name in _SETTINGS)
            or not isinstance(found.get("segments_count") or 1, int)
        ):
            raise impossible(self._address.place)
        return found

    def snapshots(self) -> list[str]:
        """The names of the collection's snapshots on the server. Raises IndexUnavailable."""
        found = self._result("GET", f"{self._address.path}/snapshots")
        try:
            return sorted(one_line(str(one["name"])) for one in found)
        except (TypeError, LookupError):
            raise impossible(self._address.place) from None

    def close(self) -> None:
        self._http.close()

    def _result(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        response = persist(self._address.place, lambda: self._send(method, path, body))
        if not response.is_success:
            raise refusal(self._address.place, response.status_code, response.reason_phrase, response.content)
        try:
            return response.json()["result"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise impossible(self._address.place) from None

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise unanswered(self._address.place, error) from None
