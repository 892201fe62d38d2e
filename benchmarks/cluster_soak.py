"""A cluster of three nodes loses one after another while it is written and searched; one table at the end.

    python -m benchmarks.cluster_soak --qdrant /path/to/qdrant

The nodes are processes on loopback of a qdrant program of your own. Each is killed (kill -9) and started again with its
data, then killed and wiped and put back as docs/how-to/cluster.md says, then frozen and released. Vectors are random,
from a seed: what is tried is the store, and embedding images would only slow it down. Exit code 1 when anything failed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.qdrant_cluster import Cluster
from benchmarks.random_index import FIELDS, payloads, unit_vectors
from cxrsearch.store import create_store, open_store
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.placement import Placement

_NAME = "soak"
_BATCH = 100
_FIRST = 1_000  # images before the first kill
_AWAY_SECONDS = 6.0
_PAUSE_SECONDS = 1.0  # between batches: the writing lasts as long as the nodes are lost
_SAME = 0.9999  # the least similarity of an image to itself


class Soak:
    """What is written, what was acknowledged, and every answer that was wrong or did not come."""

    def __init__(self, cluster: Cluster, images: int, dimensions: int, seed: int, placement: Placement) -> None:
        self.cluster, self.rng = cluster, np.random.default_rng([seed, 2])
        self.vectors = unit_vectors(images, dimensions, seed)
        self.payloads = list(payloads(images, seed))
        self.acknowledged, self.searches, self.slowest = 0, 0, 0.0
        self.failures: list[str] = []
        self.written, self.ended = threading.Event(), threading.Event()
        facts = IndexFacts(
            "random", "0" * 64, dimensions, FIELDS, {"soak": DatasetFacts("hospital", "")}, placement=placement
        )
        with create_store(cluster.address(_NAME), facts):
            pass

    def write(self) -> None:
        """All images, a batch at a time, by one writer that does not know of the kills."""
        try:
            with open_store(self.cluster.address(_NAME), write=True) as store:
                for at in range(0, len(self.vectors), _BATCH):
                    end = min(at + _BATCH, len(self.vectors))
                    store.upsert([self.point(number) for number in range(at, end)])
                    self.acknowledged = end
                    time.sleep(_PAUSE_SECONDS)
        except Exception as error:
            self.failures.append(f"writing stopped at {self.acknowledged}: {type(error).__name__}: {error}")
        self.written.set()

    def search(self, seed: int) -> None:
        """One open index after another, twenty questions each: whether an acknowledged image finds itself."""
        rng = np.random.default_rng([seed, 3])
        while not self.ended.is_set():
            try:
                with open_store(self.cluster.address(_NAME)) as store:
                    for _ in range(20):
                        self._ask(store, int(rng.integers(max(1, self.acknowledged))))
                        if self.ended.is_set():
                            return
            except Exception as error:
                self.failures.append(f"a search failed: {type(error).__name__}: {error}")
                time.sleep(0.2)

    def _ask(self, store: Any, number: int) -> None:
        if self.acknowledged == 0:
            time.sleep(0.1)
            return
        before, began = self.acknowledged, time.monotonic()
        found = store.query(self.vectors[number], 3)
        self.searches += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        if not found or found[0].id != self.point(number).id or found[0].score < _SAME:
            self.failures.append(f"image {number} did not find itself")
        if number % 10 == 0 and not before <= (count := store.count()) <= len(self.vectors):
            self.failures.append(f"{count} images counted, {before} acknowledged")

    def point(self, number: int) -> Point:
        return Point(str(uuid.UUID(int=number + 1)), self.payloads[number] | {"dataset": "soak"}, self.vectors[number])

    def check(self) -> list[int]:
        """How many images each node counts when asked alone; each has to have every acknowledged one, as it was."""
        counts = []
        for node in range(3):
            with open_store(self.cluster.address(_NAME, node)) as store:
                counts.append(store.count())
                stored = {point.id: point for point in store.scroll(vectors=True)}
            for number in range(self.acknowledged):
                one = stored.get(self.point(number).id)
                if one is None or one.vector is None or not np.allclose(one.vector, self.vectors[number], atol=1e-6):
                    self.failures.append(f"node {node} lost image {number}")
            if counts[-1] != len(self.vectors):
                self.failures.append(f"node {node} counts {counts[-1]} of {len(self.vectors)}")
        return counts


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--qdrant", type=Path, default=os.environ.get("CXRSEARCH_TEST_QDRANT"), help="the program")
    arguments.add_argument("--images", type=int, default=20_000)
    arguments.add_argument("--dimensions", type=int, default=128)
    arguments.add_argument("--shards", type=int, default=6)
    arguments.add_argument("--replicas", type=int, default=2)
    arguments.add_argument("--searchers", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    if given.qdrant is None or not Path(given.qdrant).is_file():
        print("no qdrant program is here: name one with --qdrant or CXRSEARCH_TEST_QDRANT", file=sys.stderr)
        return 2
    os.environ["CXRSEARCH_QDRANT_API_KEY"] = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(given.qdrant), Path(folder), os.environ["CXRSEARCH_QDRANT_API_KEY"])
        try:
            placement = Placement(given.shards, given.replicas)
            soak = Soak(cluster, given.images, given.dimensions, given.seed, placement)
            steps, counts = _run(soak, given.searchers)
        finally:
            cluster.close()
    print(f"{given.images:,} images, {given.shards} shards, {given.replicas} replicas, seed {given.seed}\n")
    print("| what was done | seconds until whole again | images acknowledged by then |\n|---|---|---|")
    for what, seconds, acknowledged in steps:
        print(f"| {what} | {seconds:.0f} | {acknowledged:,} |")
    print(f"\n{soak.searches:,} searches, the slowest {soak.slowest:.1f} s; counts of the nodes afterwards: {counts}")
    print(f"{len(soak.failures)} wrong or failed answers, lost images or unequal counts")
    for failure in soak.failures[:20]:
        print(failure, file=sys.stderr)
    return 1 if soak.failures else 0


def _run(soak: Soak, searchers: int) -> tuple[list[tuple[str, float, int]], list[int]]:
    cluster, steps = soak.cluster, []
    threads = [threading.Thread(target=soak.write)]
    threads += [threading.Thread(target=soak.search, args=(number,)) for number in range(searchers)]
    for thread in threads:
        thread.start()
    try:
        while soak.acknowledged < _FIRST and not soak.written.is_set():
            time.sleep(0.1)
        kinds: tuple[tuple[str, Callable[[Soak, int], None]], ...] = (
            ("killed, data kept", _kill),
            ("killed, data wiped", _wipe),
            ("frozen, released", _freeze),
        )
        for what, lose in kinds:
            for node in range(3):
                began = time.monotonic()
                lose(soak, node)
                cluster.wait_whole(_NAME)
                steps.append((f"node {node} {what}", time.monotonic() - began, soak.acknowledged))
                print(f"{steps[-1]}, {soak.searches} searches, {len(soak.failures)} failures", file=sys.stderr)
        soak.written.wait()
    finally:
        soak.ended.set()
        for thread in threads:
            thread.join()
    cluster.wait_whole(_NAME)
    return steps, soak.check()


def _kill(soak: Soak, node: int) -> None:
    soak.cluster.kill(node)
    time.sleep(_AWAY_SECONDS)
    soak.cluster.start(node, joins=(node + 1) % 3)
    soak.cluster.wait_ready(node)


def _wipe(soak: Soak, node: int) -> None:
    old = soak.cluster.peer(node)
    soak.cluster.kill(node)
    soak.cluster.wipe(node)
    time.sleep(_AWAY_SECONDS)
    soak.cluster.replace(_NAME, node, old)


def _freeze(soak: Soak, node: int) -> None:
    soak.cluster.freeze(node, True)
    time.sleep(_AWAY_SECONDS)
    soak.cluster.freeze(node, False)


if __name__ == "__main__":
    sys.exit(main())
