"""From typing a search to its rows, against the script a competent user would write; and --help.

The same index on the Qdrant server that CXRSEARCH_TEST_QDRANT_URL names is measured too, where it names one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
from PIL import Image

from benchmarks.processes import cost
from benchmarks.random_index import build, unit_vectors
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from indexer.phantoms import draw

RUNS = 5
POINTS = 10_000


def measure(folder: Path) -> str:
    folder.mkdir()
    image, card = folder / "query.png", read_card(DEFAULT_MODEL)
    Image.fromarray((draw("COVID-19", 1, size=512) * 255).astype("uint8")).save(image)
    build(folder / "index", card, unit_vectors(POINTS, card.dimensions))
    naive = [sys.executable, "-m", "benchmarks.naive_search"]
    subprocess.run([*naive, "build", str(folder / "naive")], check=True)
    program = str(Path(sys.executable).parent / "cxrsearch")
    ours = cost([program, "search", str(image), "--index", str(folder / "index")], RUNS)
    filtered = cost(
        [program, "search", str(image), "--index", str(folder / "index"), "--where", 'site = "site 3" and age >= 60'],
        RUNS,
    )
    server = _by_server(program, image, folder / "index", ours.seconds)
    theirs = cost([*naive, str(image), str(folder / "naive")], RUNS)
    nothing = cost([sys.executable, "-c", "pass"], 20)
    helped = cost([program, "--help"], 20)
    return f"""\
## Cold search: process start to printed rows, {POINTS:,} images

`benchmarks/cold_search.py`, median of {RUNS} runs after a warm one; memory is the peak of the process.

| | seconds | MiB |
|---|---|---|
| `cxrsearch search` | {ours.seconds:.2f} | {ours.mebibytes:.0f} |
| the same with `--where` | {filtered.seconds:.2f} | {filtered.mebibytes:.0f} |
{server}
| `benchmarks/naive_search.py`: torch, open_clip RN50, qdrant-client local mode | {theirs.seconds:.2f} | \
{theirs.mebibytes:.0f} |
| **ratio** (target: 8 times faster, a third of the memory) | **{theirs.seconds / ours.seconds:.1f} times faster** | \
**{ours.mebibytes / theirs.mebibytes:.2f} of it** |

The two encoders differ: ours is the small one that ships. The rest of the difference is not importing torch.

`cxrsearch --help` takes {helped.seconds * 1000:.0f} ms, `python -c pass` {nothing.seconds * 1000:.0f} ms: \
{helped.seconds / nothing.seconds:.1f} times (target: within 4).
"""


def _by_server(program: str, image: Path, index: Path, by_folder: float) -> str:
    """The row of the same search by a server."""
    server = os.environ.get("CXRSEARCH_TEST_QDRANT_URL")
    if server is None:
        return "| by a Qdrant server | not measured: no server was named | |"
    name = f"cxrsearch-benchmark-{uuid.uuid4().hex}"
    try:
        subprocess.run([program, "copy", str(index), f"{server}/{name}"], check=True, stdout=subprocess.DEVNULL)
        found = cost([program, "search", str(image), "--index", f"{server}/{name}"], RUNS)
    finally:
        httpx.delete(f"{server}/collections/{name}", timeout=60)
    seconds = f"{found.seconds:.2f} ({found.seconds / by_folder:.2f} times)"
    return f"| by a Qdrant server (target: within 1.2 times) | {seconds} | {found.mebibytes:.0f} |"
