"""Three Qdrant processes on loopback that are one cluster, to be killed and wiped as one likes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from cxrsearch.store import open_store
from cxrsearch.store.replication import Replication

_LOOK_EVERY = 0.5
_PATIENCE = 180.0  # seconds


class Cluster:
    """``binary``: a qdrant program; ``folder``: where the nodes keep their data, a folder each."""

    def __init__(self, binary: Path, folder: Path, key: str, nodes: int = 3) -> None:
        self._binary, self._folder, self._key = binary, folder, key
        self._ports = [[_free_port() for _ in range(3)] for _ in range(nodes)]  # http, grpc, between nodes
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        for node in range(nodes):
            self.start(node, joins=None if node == 0 else 0)
            self.wait_ready(node)

    def address(self, collection: str, *nodes: int) -> str:
        """Of an index: on these nodes, or all."""
        chosen = nodes or range(len(self._ports))
        return f"http://{','.join(f'127.0.0.1:{self._ports[node][0]}' for node in chosen)}/{collection}"

    def start(self, node: int, joins: int | None) -> None:
        http, grpc, between = self._ports[node]
        folder = self._folder / f"node-{node}"
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("QDRANT")},
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(http),
            "QDRANT__SERVICE__GRPC_PORT": str(grpc),
            "QDRANT__SERVICE__API_KEY": self._key,
            "QDRANT__CLUSTER__ENABLED": "true",
            "QDRANT__CLUSTER__P2P__PORT": str(between),
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT_URI": f"http://127.0.0.1:{between}",
        }
        if joins is not None:
            environment["QDRANT_BOOTSTRAP"] = f"http://127.0.0.1:{self._ports[joins][2]}"
        with (folder / "log").open("ab") as log:
            self._running[node] = subprocess.Popen([self._binary], cwd=folder, env=environment, stdout=log, stderr=log)

    def kill(self, node: int) -> None:
        """As kill -9 does."""
        self._running[node].kill()
        self._running[node].wait()

    def wipe(self, node: int) -> None:
        """All that a killed node has."""
        shutil.rmtree(self._folder / f"node-{node}")

    def freeze(self, node: int, frozen: bool) -> None:
        """It takes connections, and answers nothing."""
        self._running[node].send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def close(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def ask(self, node: int, method: str, path: str, body: Any = None) -> Any:
        """A request to one node, as an operator's curl makes it. Raises httpx.HTTPError."""
        url, headers = f"http://127.0.0.1:{self._ports[node][0]}{path}", {"api-key": self._key}
        answer = httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False)
        answer.raise_for_status()
        return answer.json()["result"]

    def wait_ready(self, node: int) -> None:
        def ready() -> bool:
            try:
                url = f"http://127.0.0.1:{self._ports[node][0]}/readyz"
                return httpx.get(url, timeout=5, trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        _wait(f"node {node} is ready", ready)

    def wait_whole(self, collection: str) -> float:
        """Until every replica is in use; the seconds it took."""
        began = time.monotonic()
        _wait("every replica is in use", lambda: (found := self.replication(collection)) is not None and found.is_whole)
        return time.monotonic() - began

    def replication(self, collection: str) -> Replication | None:
        with open_store(self.address(collection)) as store:
            return store.replication()

    def replace(self, collection: str, node: int, old: int) -> None:
        """What docs/how-to/cluster.md says of a node whose data is lost. old: its number before."""
        other = (node + 1) % len(self._ports)
        lost = [
            one["shard_id"]
            for part in ("local_shards", "remote_shards")
            for one in self.ask(other, "GET", f"/collections/{collection}/cluster")[part]
            if one.get("peer_id") == old
        ]
        self.ask(other, "DELETE", f"/cluster/peer/{old}?force=true")
        self.start(node, joins=other)
        self.wait_ready(node)
        new = self.ask(node, "GET", "/cluster")["peer_id"]
        for shard in lost:
            kept = self.ask(other, "GET", f"/collections/{collection}/cluster")
            sources = [(kept["peer_id"], one) for one in kept["local_shards"]]
            sources += [(one["peer_id"], one) for one in kept["remote_shards"]]
            source = next(peer for peer, one in sources if one["shard_id"] == shard and one["state"] == "Active")
            asked = {"shard_id": shard, "from_peer_id": source, "to_peer_id": new}
            self.ask(other, "POST", f"/collections/{collection}/cluster", {"replicate_shard": asked})

    def peer(self, node: int) -> int:
        return int(self.ask(node, "GET", "/cluster")["peer_id"])


def _wait(what: str, condition: Any) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not after {_PATIENCE:.0f} seconds")
        time.sleep(_LOOK_EVERY)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])
