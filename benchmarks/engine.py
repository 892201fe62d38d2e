"""The engine by itself on three kinds of vectors, beside Qdrant Edge without our layer and faiss's HNSW.

python -m benchmarks.engine --kinds between --sizes 1000000     a million takes half an hour and some GB
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
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
from PIL import Image

from benchmarks.processes import cost
from benchmarks.random_index import build, place_of
from benchmarks.vectors import DATA, KINDS, vectors_of
from cxrsearch.clinical.expression import And, Equals, Expression
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from cxrsearch.store import shard
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.edge_values import filter_of
from cxrsearch.store.graph import EDGES, LOOKED_AT, effort_for, words
from indexer.phantoms import draw

SIZES = (10_000, 100_000)
QUERIES, NEAREST, WARM_UPS = 300, 10, 30
# How often a search by a new process is run.
RUNS = 5
FAISS_BATCH = 50_000
QUERY_FILE, GALLERY_FILE = "queries.npy", "gallery.npy"
FILTERS: dict[str, Expression | None] = {
    "none": None,
    "half: icu": Equals("icu", (True,)),
    "1 in 20: site": Equals("site", ("site 3",)),
    "1 in 60: site and outcome": And((Equals("site", ("site 3",)), Equals("outcome", ("died",)))),
}
HEAD = f"""\
## Engine: Qdrant Edge on three kinds of vectors

`python -m benchmarks.engine` ({{cores}} cores), {QUERIES} queries that are not in the index, of {NEAREST} neighbours
each, one at a time, after {WARM_UPS} that warm up. Recall is against a comparison in numpy. *Raw* is Qdrant Edge
without our layer, with the same files and settings: it makes the same request and reads id, score and facts of what it
found. The two go first by turns (target: within 1.2 times). faiss's HNSW has {EDGES} edges and looks at {LOOKED_AT}
points, as ours does, and searches as broadly; it filters nothing. Memory is the peak of a process that opened the index
and searched it {QUERIES} times. A new process is `cxrsearch search` of a PNG, from its start to its end, median of
{RUNS} after one that warms the disk cache (target for a million: within 1.5 s and 1 GB, and a p50 within 5 ms).
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
    np.save(folder / GALLERY_FILE, vectors[:size])
    np.save(folder / QUERY_FILE, vectors[size:])
    del vectors
    started = time.perf_counter()
    build(index, card, np.load(folder / GALLERY_FILE, mmap_mode="r"))
    built = time.perf_counter() - started
    image = folder / "query.png"
    Image.fromarray((draw("COVID-19", 1, size=512) * 255).astype("uint8")).save(image)
    new = cost([sys.executable, "-m", "cxrsearch", "search", str(image), "--index", str(index)], RUNS)
    # In a process of its own, so that memory is that of the open index.
    command = [sys.executable, "-m", "benchmarks.engine", "--opened", str(index)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    shutil.rmtree(index)
    facts, *rows = done.stdout.splitlines()
    return (
        f"\n**{kind}, {size:,} points.** Written and settled in {built:.0f} s. {facts} A new process takes"
        f" {new.seconds:.2f} s and {new.mebibytes:.0f} MiB.\n\n{COLUMNS}\n" + "".join(f"{row}\n" for row in rows)
    )


def _measure_open(folder: Path) -> None:
    queries, gallery = np.load(folder.parent / QUERY_FILE), np.load(folder.parent / GALLERY_FILE, mmap_mode="r")
    started = time.perf_counter()
    store = EdgeStore.open(folder)
    opened = time.perf_counter() - started
    for query in queries:
        store.query(query, NEAREST)
    memory = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    fields, graph = store.facts.all_fields, store.facts.graph
    print(
        f"Opened in {opened * 1000:.0f} ms, {(store.size_bytes() or 0) / 2**20:.0f} MiB on disk, {memory:.0f} MiB of"
        f" memory. `info` says: {words(graph, len(gallery), store.facts.dimensions)}."
    )
    for name, expression in FILTERS.items():

        def ours(query: NDArray[np.float32], among: Expression | None = expression) -> list[str]:
            return [hit.id for hit in store.query(query, NEAREST, among)]

        def raw(query: NDArray[np.float32], among: Expression | None = expression) -> Any:
            request = edge.QueryRequest(
                limit=NEAREST,
                query=edge.Query.Nearest(query.tolist()),
                filter=filter_of(among, fields),
                with_payload=True,
                params=shard.params(effort_for(graph, NEAREST, among)),
            )
            return [(str(point.id), point.score, point.payload) for point in store._shard.query(request)]

        for query in queries[:WARM_UPS]:
            ours(query), raw(query)
        found, seconds, raw_seconds = list[list[str]](), list[float](), list[float]()
        for number, query in enumerate(queries):
            if number % 2:  # who comes second finds the caches filled by the other
                raw_seconds.append(_timed(raw, query)[1])
            hits, took = _timed(ours, query)
            if not number % 2:
                raw_seconds.append(_timed(raw, query)[1])
            found.append(hits)
            seconds.append(took)
        allowed = {place_of(point.id) for point in store.scroll(expression, fields=[])}
        true = _nearest(gallery, queries, np.array(sorted(allowed)))
        recall = np.mean([len(set(map(place_of, a)) & set(b)) / NEAREST for a, b in zip(found, true, strict=True)])
        (p50, p95), alone = np.percentile(seconds, [50, 95]) * 1000, np.median(raw_seconds) * 1000
        breadth = effort_for(graph, NEAREST, None).breadth or 64
        theirs = _faiss(gallery, queries, breadth, true) if expression is None else "- | -"
        print(
            f"| {name} | {p50:.2f} ms | {p95:.2f} ms | {recall:.3f} | {alone:.2f} ms | {p50 / alone:.2f} | {theirs} |",
            flush=True,
        )
    store.close()


def _nearest(gallery: NDArray[np.float32], queries: NDArray[np.float32], among: NDArray[np.int64]) -> list[list[int]]:
    """The places of the nearest of each query among those places, by comparing with each."""
    found = []
    for query in queries:
        scores = gallery @ query
        found.append(among[np.argpartition(-scores[among], NEAREST)[:NEAREST]].tolist())
    return found


def _timed(ask: Callable[[NDArray[np.float32]], Any], query: NDArray[np.float32]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = ask(query)
    return found, time.perf_counter() - started


def _faiss(
    gallery: NDArray[np.float32], queries: NDArray[np.float32], breadth: int, true: Sequence[Sequence[int]]
) -> str:
    """p50 and recall of faiss's HNSW, where the package faiss-cpu is installed."""
    if importlib.util.find_spec("faiss") is None:
        return "not installed | -"
    import faiss

    index = faiss.IndexHNSWFlat(gallery.shape[1], EDGES, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = LOOKED_AT, breadth
    for start in range(0, len(gallery), FAISS_BATCH):  # not a second copy of all in memory
        index.add(np.array(gallery[start : start + FAISS_BATCH]))
    faiss.omp_set_num_threads(1)
    seconds, found = [], 0
    for query, nearest in zip(queries, true, strict=True):
        (_, near), took = _timed(lambda one: index.search(one[None], NEAREST), query)
        seconds.append(took)
        found += len(set(nearest) & set(near[0].tolist()))
    return f"{np.median(seconds) * 1000:.2f} ms | {found / (NEAREST * len(queries)):.3f}"


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
            os.environ["CXRSEARCH_KEY_FILE"] = str(Path(place) / "key")
            print(measure(Path(place), given.kinds, given.sizes))
