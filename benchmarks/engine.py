"""The engine by itself on three kinds of vectors, beside Qdrant Edge without our layer and faiss's HNSW.

python -m benchmarks.engine --kinds between --sizes 1000000     a million takes half an hour and some GB
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from benchmarks.random_index import build
from benchmarks.vectors import DATA, KINDS, vectors_of
from cxrsearch.clinical.expression import And, Equals, Expression
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from cxrsearch.store import shard
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.edge_values import filter_of
from cxrsearch.store.graph import EDGES, LOOKED_AT, effort_for, words

SIZES = (10_000, 100_000)
QUERIES = 300
FILTERS: dict[str, Expression | None] = {
    "none": None,
    "half: icu": Equals("icu", (True,)),
    "1 in 20: site": Equals("site", ("site 3",)),
    "1 in 60: site and outcome": And((Equals("site", ("site 3",)), Equals("outcome", ("died",)))),
}
HEAD = f"""\
## Engine: Qdrant Edge on three kinds of vectors

`python -m benchmarks.engine` ({{cores}} cores), {QUERIES} queries that are not in the index, of 10 neighbours each, one
at a time. Recall is against a comparison in numpy. *Raw* is Qdrant Edge with the same files, filters and settings,
without our layer, turn about with ours (target: within 1.2 times). faiss's HNSW has {EDGES} edges and looks at
{LOOKED_AT} points, as ours does, and searches as broadly; it filters nothing. Memory is the peak of a process that
opened the index and searched it {QUERIES} times.
"""
COLUMNS = """\
| filter | p50 | p95 | recall@10 | raw p50 | ratio | faiss p50 | its recall |
|---|---|---|---|---|---|---|---|"""


def measure(folder: Path, kinds: Sequence[str] = KINDS, sizes: Sequence[int] = SIZES) -> str:
    folder.mkdir(exist_ok=True)
    if not DATA.is_dir():
        kinds = [kind for kind in kinds if kind == "noise"]
    return HEAD.format(cores=os.cpu_count()) + "".join(_section(folder, kind, size) for kind in kinds for size in sizes)


def _section(folder: Path, kind: str, size: int) -> str:
    index, card = folder / f"{kind}-{size}", read_card(DEFAULT_MODEL)
    vectors = np.random.default_rng(1).permutation(vectors_of(kind, size + QUERIES))
    np.save(folder / "queries.npy", vectors[size:])
    started = time.perf_counter()
    build(index, card, vectors[:size])
    built = time.perf_counter() - started
    # In a process of its own, so that memory is that of the open index.
    command = [sys.executable, "-m", "benchmarks.engine", "--opened", str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts, *rows = done.stdout.splitlines()
    return f"\n**{kind}, {size:,} points.** Written and settled in {built:.0f} s. {facts}\n\n{COLUMNS}\n" + "".join(
        f"{row}\n" for row in rows
    )


def _measure_open(folder: Path) -> None:
    queries = np.load(folder.parent / "queries.npy")
    started = time.perf_counter()
    store = EdgeStore.open(folder)
    opened = time.perf_counter() - started
    for query in queries:  # the index as a search leaves it in memory, before the brute-force copy joins it
        store.query(query, 10)
    memory = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    points = list(store.scroll(vectors=True))
    gallery = np.stack([point.vector for point in points if point.vector is not None])
    fields, effort = store.facts.all_fields, effort_for(store.facts.graph, 10)
    print(
        f"Opened in {opened * 1000:.0f} ms, {(store.size_bytes() or 0) / 2**20:.0f} MiB on disk, {memory:.0f} MiB of"
        f" memory. `info` says: {words(store.facts.graph, len(points), store.facts.dimensions)}."
    )
    theirs = _faiss(gallery, queries, effort.breadth or 64)
    for name, expression in FILTERS.items():
        allowed = {point.id for point in store.scroll(expression, fields=[])}
        mask = np.array([point.id in allowed for point in points])
        ids = np.array([point.id for point in points])[mask]

        def ours(query: NDArray[np.float32], among: Expression | None = expression) -> list[str]:
            return [hit.id for hit in store.query(query, 10, among)]

        def raw(query: NDArray[np.float32], among: Expression | None = expression) -> Any:
            request = edge.QueryRequest(
                limit=10,
                query=edge.Query.Nearest(query.tolist()),
                filter=filter_of(among, fields),
                with_payload=True,
                params=shard.params(effort),
            )
            return store._shard.query(request)

        found, seconds, raw_seconds = 0, [], []
        for query in queries:
            best = ids[np.argsort(-(gallery[mask] @ query))[:10]]
            hits, took = _timed(ours, query)
            seconds.append(took)
            raw_seconds.append(_timed(raw, query)[1])
            found += len(set(best) & set(hits))
        (p50, p95), alone = np.percentile(seconds, [50, 95]) * 1000, np.median(raw_seconds) * 1000
        print(
            f"| {name} | {p50:.1f} ms | {p95:.1f} ms | {found / (10 * len(queries)):.3f} | {alone:.1f} ms |"
            f" {p50 / alone:.2f} | {theirs if expression is None else '- | -'} |"
        )
    store.close()


def _timed(ask: Callable[[NDArray[np.float32]], Any], query: NDArray[np.float32]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = ask(query)
    return found, time.perf_counter() - started


def _faiss(gallery: NDArray[np.float32], queries: NDArray[np.float32], breadth: int) -> str:
    """p50 and recall of faiss's HNSW, where the package faiss-cpu is installed."""
    if importlib.util.find_spec("faiss") is None:
        return "not installed | -"
    import faiss

    index = faiss.IndexHNSWFlat(gallery.shape[1], EDGES, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = LOOKED_AT, breadth
    index.add(gallery)
    faiss.omp_set_num_threads(1)
    seconds, found = [], 0
    for query in queries:
        (_, near), took = _timed(lambda one: index.search(one[None], 10), query)
        seconds.append(took)
        found += len(set(np.argsort(-(gallery @ query))[:10]) & set(near[0]))
    return f"{np.median(seconds) * 1000:.1f} ms | {found / (10 * len(queries)):.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.opened is not None:
        _measure_open(given.opened)
    else:
        with tempfile.TemporaryDirectory() as place:
            print(measure(Path(place), given.kinds, given.sizes))
