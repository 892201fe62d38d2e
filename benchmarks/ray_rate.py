"""How much of the plain pipeline's rate is left when the cluster of ``--engine ray`` does the same work."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from benchmarks.indexing_rate import DATA
from cxrsearch import settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.device import Device
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from cxrsearch.store.contract import DatasetFacts, IndexFacts
from cxrsearch.store.edge import EdgeStore
from indexer import dataset, pipeline, ray_readers
from indexer.points import EmbeddedFile
from indexer.readers import Outcome, ReaderConfig, Readers, Task

# Processes that read and embed, of either engine.
WORKERS = 2
ROUNDS = 3
MAPPING = """
name = "all"
[images]
glob = ["nih/images/*", "covid-chestxray/images/*"]
"""
Make = Callable[[ReaderConfig, Callable[[str], str]], pipeline.Engine]


class _Timed:
    """An engine with a clock. start: seconds until it gave its first image; images: that it gave after that, so many a
    second by_clock, and a_core: a second of processor, of all processes together."""

    def __init__(self, make: Make, config: ReaderConfig, file: Callable[[str], str]) -> None:
        self._began = time.perf_counter()
        self._engine = make(config, file)
        self.start = self.by_clock = self.a_core = 0.0
        self.images = 0

    def read(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome | EmbeddedFile | None]]:
        found = self._engine.read(tasks)
        yield next(found)
        first, processor = time.perf_counter(), _processor()
        self.start = first - self._began
        for one in found:
            self.images += 1
            yield one
        self.by_clock = self.images / (time.perf_counter() - first)
        self.a_core = self.images / (_processor() - processor)

    def stop(self) -> None:
        self._engine.stop()


def measure(folder: Path) -> str:
    folder.mkdir()
    if importlib.util.find_spec("ray") is None or not DATA.is_dir():
        return "## Rate of `--engine ray`\n\nNot measured: Ray, or the images, are not here.\n"
    # Where others work too, Ray's processes would stand behind them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling
    plain, ray = [], []
    for number in range(ROUNDS):  # turn about, so that a noisy minute hits both
        plain.append(_index(folder / f"plain-{number}", partial(Readers, WORKERS)))
        ray.append(
            _index(folder / f"ray-{number}", lambda *given: ray_readers.connect(None, WORKERS, Device.CPU)(*given))
        )
    return f"""\
## Rate of `--engine ray`, by Ray Data

`python -m benchmarks.ray_rate`: {plain[0].images} images of NIH and covid-chestxray in `../shared/data` into a folder,
{WORKERS} workers of either kind, {ROUNDS} pairs of runs in turn, medians; a ratio is the median of the pairs'. Counted
from the first image that was read and embedded to the last.

| | processes | `--engine ray` | ratio |
|---|---|---|---|
| images per second of a core's time, all processes together (target: 0.90) | {_row(plain, ray, "a_core")} |
| images/s by the clock | {_row(plain, ray, "by_clock")} |
| seconds until the first image | {_row(plain, ray, "start")} |
"""


def _row(plain: list[_Timed], ray: list[_Timed], of: str) -> str:
    both = np.array([[getattr(run, of) for run in runs] for runs in (plain, ray)])
    return " | ".join([*(f"{value:.1f}" for value in np.median(both, axis=1)), f"{np.median(both[1] / both[0]):.2f}"])


def _index(folder: Path, make: Make) -> _Timed:
    identity, card = load_identity(settings.key_file(), create=True), read_card(DEFAULT_MODEL)
    assert identity is not None
    mapping = folder.with_suffix(".toml")
    mapping.write_text(MAPPING)
    data = dataset.load(str(mapping), DATA)
    engines: list[_Timed] = []

    def timed(config: ReaderConfig, file: Callable[[str], str]) -> _Timed:
        engines.append(_Timed(make, config, file))
        return engines[0]

    empty = IndexFacts(card.name, card.fingerprint, card.dimensions, {}, {})
    store = EdgeStore.create(folder, empty.declaring("all", DatasetFacts("all", ""), {}))
    with (folder / "rejected.jsonl").open("w") as rejected:
        pipeline.run(data, store, DEFAULT_MODEL, identity, rejected, pipeline.Options(WORKERS, engine=timed))
    store.close()
    return engines[0]


def _processor() -> float:
    """Seconds of processor that this process and those below it have had."""
    seconds = 0.0
    for process in [(own := psutil.Process()), *own.children(recursive=True)]:
        try:
            seconds += sum(process.cpu_times()[:4])  # with those of its children that ended
        except psutil.Error:
            continue
    return seconds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(measure(Path(place) / "ray_rate"))
