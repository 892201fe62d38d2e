"""How a cluster keeps an index: which node has which shard, what cannot answer now, and what is to be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cxrsearch.text import tidy

# Of the states that Qdrant gives a replica, those in which it answers and takes what is written.
_ACTIVE = ("Active", "ReshardingScaleDown")
_PAGE = "docs/how-to/cluster.md"


@dataclass(frozen=True)
class Replica:
    """One copy of a shard. node: the number of its node in the cluster; state: Qdrant's word."""

    shard: int
    node: int
    state: str


@dataclass(frozen=True)
class Replication:
    """An index on a cluster.

    nodes: what the nodes call each other, by number.
    away: numbers of the nodes that do not answer, or whose place another node has taken.
    unanswered: those addresses of ``--index`` where nothing answered.
    wanted: replicas of each shard, as the index was made.
    replicas: that there are.
    transfers: shards that are being copied to a node now.
    """

    nodes: Mapping[int, str]
    away: frozenset[int]
    unanswered: tuple[str, ...]
    wanted: int
    replicas: tuple[Replica, ...]
    transfers: int = 0

    @property
    def shards(self) -> Mapping[int, int]:
        """How many replicas of each shard answer and are whole."""
        whole = dict.fromkeys((one.shard for one in self.replicas), 0)
        for one in self.replicas:
            whole[one.shard] += self._is_whole(one)
        return dict(sorted(whole.items()))

    @property
    def dead(self) -> tuple[Replica, ...]:
        """Replicas that do not answer or are not whole: what is deleted now may still be in them."""
        return tuple(one for one in self.replicas if not self._is_whole(one))

    @property
    def is_whole(self) -> bool:
        """Whether every replica is in use, so that what is deleted is deleted from each."""
        return not (self.dead or self.away or self.unanswered or self.transfers)

    def words(self) -> str:
        """What ``info`` says in a line."""
        wanted = len(self.shards) * self.wanted
        alive = sum(min(whole, self.wanted) for whole in self.shards.values())
        said = f"{len(self.shards)} shards of {self.wanted} replicas on {len(self.nodes)} nodes"
        return said if alive == wanted else f"{said}, {alive} of {wanted} replicas alive"

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong, and what to do about it."""
        for node in sorted(self.away):
            yield (
                f"node {node} ({self.nodes.get(node, '?')}) is away",
                f"start it again; if its data is lost, remove it and let others take over: {_PAGE}",
            )
        for address in self.unanswered:
            yield f"{address} does not answer", "start that node, or correct --index"
        lost = [shard for shard, whole in self.shards.items() if not whole]
        fewer = [shard for shard, whole in self.shards.items() if 0 < whole < self.wanted]
        if lost:
            yield (
                f"shards {_listed(lost)} have no live replica: whoever asks gets an error",
                "start their nodes again; if their data is lost, restore a backup into a new index",
            )
        if fewer and self.transfers:
            yield f"shards {_listed(fewer)} are being copied to a node", "wait, and look again"
        elif fewer:
            at = sorted({one.node for one in self.dead})
            where = f" (not on node {_listed(at)})" if at else ""
            yield (
                f"shards {_listed(fewer)} have fewer than {self.wanted} live replicas{where}",
                f"wait for a node that was just started; else copy them to another: {_PAGE}",
            )
        if self.wanted == 1 and len(self.nodes) > 1:
            yield (
                f"one replica on {len(self.nodes)} nodes: with any of them lost, every command fails",
                "cxrsearch copy it into a new index with --replicas 2",
            )

    def as_json(self) -> dict[str, Any]:
        return {
            "shards": len(self.shards),
            "replicas": self.wanted,
            "nodes": {str(node): uri for node, uri in self.nodes.items()},
            "away": sorted(map(str, self.away)),
            "dead": [{"shard": one.shard, "node": str(one.node), "state": one.state} for one in self.dead],
            "problems": [found for found, _ in self.problems()],
        }

    def _is_whole(self, replica: Replica) -> bool:
        return replica.state in _ACTIVE and replica.node not in self.away


def read(views: Mapping[str, Any], shards: Any, wanted: int) -> Replication | None:
    """Of what each address says of its cluster (None where it does not answer) and one of them of the shards.

    None where it is no cluster. Raises TypeError, ValueError, LookupError, AttributeError for answers that are none.
    """
    clusters = [view for view in views.values() if isinstance(view, dict) and view.get("status") == "enabled"]
    if not clusters:
        return None
    nodes = {int(number): tidy(str(node["uri"]))[:200] for view in clusters for number, node in view["peers"].items()}
    answering = {int(view["peer_id"]) for view in clusters}
    failing = {str(uri).rstrip("/") for view in clusters for uri in view.get("message_send_failures") or {}}
    taken = {nodes[number] for number in answering if number in nodes}
    away = {
        number
        for number, uri in nodes.items()
        if number not in answering and (uri.rstrip("/") in failing or uri in taken)
    }
    this = int(shards["peer_id"])
    replicas = [Replica(int(one["shard_id"]), this, str(one["state"])[:40]) for one in shards["local_shards"]]
    replicas += [
        Replica(int(one["shard_id"]), int(one["peer_id"]), str(one["state"])[:40]) for one in shards["remote_shards"]
    ]
    away |= {one.node for one in replicas if one.node not in nodes}
    return Replication(
        dict(sorted(nodes.items())),
        frozenset(away),
        tuple(url for url, view in views.items() if view is None),
        wanted,
        tuple(sorted(replicas, key=lambda one: (one.shard, one.node))),
        len(shards.get("shard_transfers") or []),
    )


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown
