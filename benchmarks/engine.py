"""The engine by itself: random points, filtered and unfiltered, against exact search."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.random_index import build, unit_vectors
from cxrsearch.clinical.expression import And, Compare, Equals, Expression
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from cxrsearch.store.edge import EdgeStore

SIZES = (10_000, 100_000)
QUERIES = 300
FILTERS: dict[str, Expression | None] = {
    "no filter": None,
    "half: icu = true": Equals("icu", (True,)),
    "1 in 60: site and outcome": And((Equals("site", ("site 3",)), Equals("outcome", ("died",)))),
    "age >= 60": Compare("age", ">=", 60),
}


def measure(folder: Path) -> str:
    folder.mkdir()
    rows, built = [], []
    for size in SIZES:
        index = folder / str(size)
        started = time.perf_counter()
        build(index, read_card(DEFAULT_MODEL), unit_vectors(size, read_card(DEFAULT_MODEL).dimensions))
        built.append(f"{size:,} points were written and optimised in {time.perf_counter() - started:.1f} s")
        # In a process of its own, so that memory is that of the open index.
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.engine", str(index)], capture_output=True, text=True, check=True
        )
        rows += done.stdout.splitlines()
    return f"""\
## Engine: Qdrant Edge, {read_card(DEFAULT_MODEL).dimensions} dimensions, random unit vectors

`benchmarks/engine.py`, {QUERIES} queries of 10 neighbours each, one at a time. Recall is against a brute-force
comparison in numpy over the same points (target 0.99): up to half a million points the search itself compares
with every point, and so misses none. Memory is the peak of a process that opened the index and searched it.
{"; ".join(built)}.

| points | open | filter | p50 | p95 | recall@10 | on disk | memory |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def _measure_open(folder: Path) -> None:
    started = time.perf_counter()
    store = EdgeStore.open(folder)
    opened = time.perf_counter() - started
    queries = unit_vectors(QUERIES, store.facts.dimensions, seed=1)
    for query in queries:  # the index as a search leaves it in memory, before the brute-force copy joins it
        store.query(query, 10)
    memory = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    points = list(store.scroll(vectors=True))
    gallery = np.stack([point.vector for point in points if point.vector is not None])
    for name, expression in FILTERS.items():
        allowed = {point.id for point in store.scroll(expression, fields=[])}
        mask = np.array([point.id in allowed for point in points])
        ids = np.array([point.id for point in points])[mask]
        seconds, found = [], 0
        for query in queries:
            best = ids[np.argsort(-(gallery[mask] @ query))[:10]]
            started = time.perf_counter()
            hits = store.query(query, 10, expression)
            seconds.append(time.perf_counter() - started)
            found += len(set(best) & {hit.id for hit in hits})
        p50, p95 = np.percentile(seconds, [50, 95]) * 1000
        print(
            f"| {len(points):,} | {opened * 1000:.0f} ms | {name} | {p50:.1f} ms | {p95:.1f} ms |"
            f" {found / (10 * QUERIES):.3f} | {(store.size_bytes() or 0) / 2**20:.0f} MiB | {memory:.0f} MiB |"
        )
    store.close()


if __name__ == "__main__":
    _measure_open(Path(sys.argv[1]))
