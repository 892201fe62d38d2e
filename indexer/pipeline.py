"""Records -> points: worker processes read, one session embeds in batches, one writer stores.

    records -> [readers, a bounded window ahead] -> batches -> encoder -> store.upsert

The index is the only state: what is already there and unchanged is not read twice, and a killed run goes on
by being started again.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from cxrsearch import radiograph
from cxrsearch.clinical import ROW_HASH, Payload, clean
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, Reason
from cxrsearch.identity import Identity
from cxrsearch.store.contract import Point, VectorStore
from cxrsearch.where import Equals
from indexer.dataset import Dataset, Record

# Images embedded at once, and read ahead of that per worker: enough to hide the slowest of neighbours.
BATCH = 32
_AHEAD_PER_WORKER = 24


@dataclass(frozen=True)
class Rejection:
    """A file that was left out. path: relative to the dataset's root; row: of the table, if any."""

    path: str
    reason: Reason
    message: str
    row: int | None


@dataclass
class Summary:
    """How a run went. unusable: DICOM values, by field, that were no value of the field's type."""

    total: int
    indexed: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True)
class _Known:
    """What the index has of an image: enough to see whether it, or its row, changed."""

    sha256: str
    row_hash: str
    payload: Payload


@dataclass(frozen=True)
class _Task:
    record: Record
    known: _Known | None
    row_hash: str


@dataclass(frozen=True)
class _Read:
    """A worker's answer. picture: canonical pixels, None when the file is the one already indexed."""

    sha256: str
    picture: NDArray[np.float32] | None = None
    width: int = 0
    height: int = 0
    header: Mapping[str, str] = field(default_factory=dict)


def run(
    dataset: Dataset,
    store: VectorStore,
    encoder: Encoder,
    identity: Identity,
    workers: int,
    limit: int | None,
    rejected_file: Path,
) -> Summary:
    """Bring the index up to the dataset. A file that cannot be read is rejected and the run goes on.

    Ctrl-C ends it early, with what was stored so far kept; ``Summary.interrupted`` says so.
    """
    total = min(len(dataset), limit or len(dataset))
    summary, started = Summary(total), time.monotonic()
    known = _known(store, dataset.mapping.name)
    tasks = _tasks(dataset, identity, known, limit)
    with rejected_file.open("w", encoding="utf-8") as rejected, _Progress(total) as progress:
        rejected_file.chmod(0o600)  # paths can name patients
        writer = _Writer(dataset, store, encoder, identity, summary, rejected)
        readers = _Readers(workers, encoder.card.image_size, dataset.mapping.dicom_keywords)
        try:
            with _Interruption() as interruption:
                for task, outcome in readers.read(tasks):
                    writer.take(task, outcome)
                    progress.advance()
                    if interruption.asked:
                        summary.interrupted = True
                        break
                writer.flush()
            if not summary.interrupted:
                store.optimise()
        finally:
            readers.stop()
    summary.seconds = time.monotonic() - started
    return summary


def _known(store: VectorStore, dataset: str) -> dict[str, _Known]:
    wanted = ["image_sha256", "width", "height", ROW_HASH]
    return {
        point.id: _Known(str(point.payload["image_sha256"]), str(point.payload[ROW_HASH]), point.payload)
        for point in store.scroll(Equals("dataset", (dataset,)), fields=wanted)
    }


def _tasks(dataset: Dataset, identity: Identity, known: Mapping[str, _Known], limit: int | None) -> Iterator[_Task]:
    for record in islice(dataset.records(), limit):
        point = identity.point(dataset.mapping.name, record.key)
        yield _Task(record, known.get(point), dataset.row_hash(record))


class _Writer:
    """Turns what the readers give into stored points, a batch at a time."""

    def __init__(
        self,
        dataset: Dataset,
        store: VectorStore,
        encoder: Encoder,
        identity: Identity,
        summary: Summary,
        rejected: TextIO,
    ) -> None:
        self.dataset, self.store, self.encoder, self.identity = dataset, store, encoder, identity
        self.summary, self.rejected = summary, rejected
        self.batch: list[tuple[Point, NDArray[np.float32]]] = []

    def take(self, task: _Task, outcome: _Read | ImageError) -> None:
        if isinstance(outcome, ImageError):
            self._reject(task.record, outcome)
        elif outcome.picture is not None:
            self.batch.append((self._point(task, outcome), outcome.picture))
            if len(self.batch) == BATCH:
                self.flush()
        elif task.known is not None and task.known.row_hash == task.row_hash:
            self.summary.unchanged += 1
        else:  # the same image with other facts: its vector stays
            point = self._point(task, outcome)
            self.store.set_payload(point.id, point.payload)
            self.summary.updated += 1

    def flush(self) -> None:
        """Embed and store the batch; once this returns, its images count as indexed."""
        if not self.batch:
            return
        vectors = self.encoder.embed([picture for _, picture in self.batch])
        self.store.upsert([Point(p.id, p.payload, v) for (p, _), v in zip(self.batch, vectors, strict=True)])
        self.summary.indexed += len(self.batch)
        self.batch.clear()

    def _point(self, task: _Task, read: _Read) -> Point:
        name = self.dataset.mapping.name
        record, unusable = self.dataset.complete(task.record, read.header)
        self.summary.unusable.update(unusable)
        size = task.known.payload if task.known is not None and read.picture is None else {}
        payload: Payload = {
            "dataset": name,
            "path": clean(record.key),
            "image_sha256": read.sha256,
            "width": size.get("width", read.width),
            "height": size.get("height", read.height),
            ROW_HASH: task.row_hash,
            **record.payload,
        }
        if record.patient is not None:
            payload["patient"] = self.identity.patient(self.dataset.mapping.patient_namespace, record.patient)
        if record.study is not None:
            mapped = self.dataset.mapping.study
            namespace = (mapped.namespace if mapped else None) or name
            payload["study"] = self.identity.study(namespace, record.study)
        return Point(self.identity.point(name, record.key), payload)

    def _reject(self, record: Record, error: ImageError) -> None:
        self.summary.rejected[error.reason] += 1
        rejection = Rejection(clean(record.key), error.reason, clean(str(error)), record.row)
        self.rejected.write(json.dumps(rejection.__dict__, ensure_ascii=False) + "\n")
        self.rejected.flush()


class _Readers:
    """A pool of processes that read ahead, in order, within a bounded window.

    A decoder that kills its process costs that file alone: the window is read again one file at a time,
    each in a process of its own, and the file that kills it is rejected.
    """

    def __init__(self, workers: int, image_size: int, keywords: Sequence[str]) -> None:
        self.workers, self.arguments = workers, (image_size, tuple(keywords))
        self.pool = self._start(workers)

    def read(self, tasks: Iterator[_Task]) -> Iterator[tuple[_Task, _Read | ImageError]]:
        waiting: deque[tuple[_Task, Future[_Read | ImageError]]] = deque()
        for task in tasks:
            waiting.append((task, self.pool.submit(_read, task, *self.arguments)))
            if len(waiting) >= self.workers * _AHEAD_PER_WORKER:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def stop(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, waiting: deque[tuple[_Task, Future[_Read | ImageError]]]) -> tuple[_Task, _Read | ImageError]:
        task, future = waiting.popleft()
        try:
            return task, future.result()
        except BrokenProcessPool:
            outcome = self._read_alone(task)
            self.pool = self._start(self.workers)
            again = [(t, self.pool.submit(_read, t, *self.arguments)) for t, _ in waiting]
            waiting.clear()
            waiting.extend(again)
            return task, outcome

    def _read_alone(self, task: _Task) -> _Read | ImageError:
        alone = self._start(1)
        try:
            return alone.submit(_read, task, *self.arguments).result()
        except BrokenProcessPool:
            name = task.record.path.name
            return ImageError(
                Reason.READER_DIED, f"{name}: reading it ended the process that read it; the file is damaged"
            )
        finally:
            alone.shutdown(wait=False)

    @staticmethod
    def _start(workers: int) -> ProcessPoolExecutor:
        # Not forked: the encoder's threads would not survive a fork.
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ready_worker)


def _ready_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer


def _read(task: _Task, image_size: int, keywords: tuple[str, ...]) -> _Read | ImageError:
    """In a worker: the canonical picture of a record, or why there is none."""
    record = task.record
    try:
        if record.problem == "outside":
            raise ImageError(Reason.OUTSIDE_ROOT, "the table names a file outside the dataset's folder")
        if record.problem is not None:
            raise ImageError(Reason.MISSING, record.problem)
        data = radiograph.read_bytes(record.path)
        sha256 = radiograph.digest(data)
        if task.known is not None and task.known.sha256 == sha256:
            if not keywords or task.known.row_hash == task.row_hash:
                return _Read(sha256)
            return _Read(sha256, header=radiograph.decode(data, record.path.name, keywords).header)
        image = radiograph.decode(data, record.path.name, keywords)
        picture = radiograph.canonical(image, image_size)
        return _Read(sha256, picture, image.width, image.height, image.header)
    except ImageError as error:
        return error


class _Interruption:
    """Ctrl-C asks the run to end after the image in hand, so that what is counted is what is stored;
    a second one ends it at once."""

    asked = False

    def __enter__(self) -> _Interruption:
        self._former = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._former)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class _Progress:
    """A bar with rate and time left on stderr; nothing where stderr is no terminal."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        rate = TextColumn("{task.fields[rate]}")
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            rate,
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("index", total=total, rate="")
        self._started, self._done = time.monotonic(), 0

    def __enter__(self) -> _Progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        self._done += 1
        seconds = time.monotonic() - self._started
        self._progress.update(self._task, advance=1, rate=f"{self._done / seconds:.0f} images/s" if seconds > 0 else "")
