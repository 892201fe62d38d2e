"""What int8 vectors beside the originals would save of memory, and cost: the same graph with and without them.

python -m benchmarks.quantisation --kind noise --points 100000
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import qdrant_edge as edge

from benchmarks.vectors import KINDS, vectors_of
from cxrsearch.store import shard
from cxrsearch.store.graph import OVERSAMPLING

QUERIES, NEAREST, BREADTH = 300, 10, 128
_BATCH = 5_000
WAYS = {
    "originals": edge.QuantizationSearchParams(ignore=True),
    "int8, ranked again by originals": edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
    "int8 alone": edge.QuantizationSearchParams(rescore=False),
}
HEAD = """\
| vectors | first search | p50 | recall@10 | read from disk | memory |
|---|---|---|---|---|---|"""


def main(folder: Path, kind: str, points: int) -> None:
    vectors = np.random.default_rng(1).permutation(vectors_of(kind, points + QUERIES))
    np.save(folder / "queries.npy", vectors[points:])
    _build(folder / "shard", vectors[:points])
    _exact(folder)
    disk = shard.size(folder / "shard") / 2**20
    print(f"{kind}, {points:,} points, breadth {BREADTH}, {disk:.0f} MiB on disk\n\n{HEAD}", flush=True)
    for way in WAYS:
        subprocess.run([sys.executable, "-m", "benchmarks.quantisation", "--search", way, str(folder)], check=True)


def _build(path: Path, vectors: np.ndarray) -> None:
    made = shard.create(path, vectors.shape[1], {})
    for start in range(0, len(vectors), _BATCH):
        batch = enumerate(vectors[start : start + _BATCH].tolist(), start)
        made.update(edge.UpdateOperation.upsert_points([edge.Point(id=n, vector=v, payload={}) for n, v in batch]))
    made.flush()
    made.close()
    shard.optimised(path, vectors.shape[1], graph=True, int8=True).close()


def _exact(folder: Path) -> None:
    opened, queries = shard.load(folder / "shard"), np.load(folder / "queries.npy")
    params = edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
    np.save(folder / "true.npy", [_search(opened, query, params) for query in queries])
    opened.close()


def _search(opened: edge.EdgeShard, query: np.ndarray, params: edge.SearchParams) -> list[int]:
    nearest = edge.Query.Nearest(query.tolist())
    return [point.id for point in opened.query(edge.QueryRequest(limit=NEAREST, query=nearest, params=params))]


def _measure(folder: Path, way: str) -> None:
    """One row, of a process of its own that finds nothing of the index in memory."""
    for path in (folder / "shard").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    queries, true = np.load(folder / "queries.npy"), np.load(folder / "true.npy")
    read, seconds, found = _of("io", "read_bytes"), [], 0
    opened = shard.load(folder / "shard")
    params = edge.SearchParams(hnsw_ef=BREADTH, quantization=WAYS[way])
    for query, nearest in zip(queries, true, strict=True):
        started = time.perf_counter()
        ids = _search(opened, query, params)
        seconds.append(time.perf_counter() - started)
        found += len(set(ids) & set(nearest.tolist()))
    print(
        f"| {way} | {seconds[0] * 1000:.0f} ms | {np.median(seconds) * 1000:.2f} ms | {found / true.size:.4f} |"
        f" {(_of('io', 'read_bytes') - read) / 2**20:.0f} MiB | {_of('status', 'VmHWM') / 1024:.0f} MiB |",
        flush=True,
    )
    opened.close()


def _of(file: str, name: str) -> int:
    """A number that Linux keeps of this process."""
    return int(re.findall(rf"{name}:\s+(\d+)", Path(f"/proc/self/{file}").read_text())[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", default="noise", choices=KINDS)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--search", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.search:
        _measure(Path(given.search[1]), given.search[0])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place), given.kind, given.points)
