"""Whether the nodes that an address names are of one cluster: all have the index of one random name, or none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.address import ServerAddress
from cxrsearch.store.collection_facts import name_of
from cxrsearch.store.rest import Rest

# How long the nodes of a cluster are given to hear of a new collection, in seconds, and how often they are asked.
_HEARD_SECONDS = 10.0
_LOOK_EVERY = 0.2


class Members:
    """The nodes of one address. ``name``: of the index, once a node has said it."""

    def __init__(self, rest: Rest, address: ServerAddress) -> None:
        self.name: Any = None
        self._rest, self._address = rest, address
        rest.nodes.accept = self._accept

    def check(self) -> None:
        """Raises IndexUnavailable where one of those that answer has another index."""
        for url, found in self._rest.collections().items():
            if isinstance(found, dict) and found and self.name != name_of(found["config"].get("metadata")):
                raise self._another(url)

    def check_made(self, drop: Callable[[], None]) -> None:
        """Raises IndexUnavailable, and leaves nothing, where a node never hears of the collection that was made."""
        end = time.monotonic() + _HEARD_SECONDS
        while deaf := [url for url, found in self._rest.collections().items() if found == {}]:
            if time.monotonic() > end:
                drop()
                raise IndexUnavailable(
                    f"{self._address.place}: {deaf[0]} does not have the index that was just made: it is no node of the"
                    " same cluster. Nothing was made; correct --index."
                )
            time.sleep(_LOOK_EVERY)

    def _accept(self, node: int) -> None:
        """Of a node that was not asked before, or failed: it has caught up, and has this index."""
        self._rest.check_ready(node)
        if self.name is None:
            return
        found = self._rest.of_node(node, "GET", self._address.path)
        if self.name != name_of(((found or {}).get("config") or {}).get("metadata")):
            raise self._another(self._address.urls[node])

    def _another(self, url: str) -> IndexUnavailable:
        return IndexUnavailable(
            f"{self._address.place}: {url} has another index of this name: it is no node of the same cluster."
            " Correct --index."
        )
