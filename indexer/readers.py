"""Processes that read files and embed what they read, each file in bounded time and memory.

Learning, which wants the pictures themselves, reads by them too: a pool without a model gives canonical pixels.

Each process has an encoder of its own on one core: the cores never wait for each other, and a vector is a thousandth
of the picture to send. (One encoder on all cores, fed by reading processes, reached 79 % of its own rate on two cores;
this reaches more than 90 %.) A decoder that ends its process, or takes too long, costs the file it was at and no other.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch.encoder import Encoder, read_card
from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.canonical import canonical, grey, jpeg, pixel_digest
from cxrsearch.imaging.radiograph import Gates, Radiograph
from cxrsearch.imaging.read import decode, digest, read_bytes
from cxrsearch.store.thumbnails import SIDE
from indexer.record import Record

# Files a process takes at once: a batch for its encoder.
CHUNK = 16
# Chunks given out per process, so that none waits for the writer.
_AHEAD = 3
# The slowest syntax takes half a second for a large radiograph.
SECONDS_PER_FILE = 60
# Address space of a worker; reading the largest allowed image takes under 2 GiB.
MEMORY_BYTES = 6 * 2**30


@dataclass(frozen=True)
class IndexedState:
    """What the index has of a file: its hash, its row's hash, the size of its image and the digest of its pixels."""

    sha256: str
    row_hash: str
    width: int
    height: int
    projection: str | None
    picture: str


@dataclass(frozen=True)
class Task:
    """label: what messages call the file: its path, or a token where paths name patients."""

    record: Record
    label: str
    row_hash: str
    known: IndexedState | None


@dataclass(frozen=True)
class PreparedImage:
    """One radiograph, and the size and projection it had. array: its embedding, (D,) float32 of unit length; from a
    pool without a model its canonical pixels, (S, S) uint8. digest: of the canonical pixels; thumbnail: a JPEG file,
    where those are wanted."""

    array: NDArray[np.float32] | NDArray[np.uint8]
    width: int
    height: int
    projection: str | None
    digest: str
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class ReadFile:
    """A file that was read. sha256: as ``ReaderConfig.file`` gives it; images: None when the file is the one already
    indexed; size: of the file, in bytes."""

    sha256: str
    images: list[PreparedImage] | None
    size: int
    header: Mapping[str, str] = field(default_factory=dict)


Outcome = ReadFile | ImageError


@dataclass(frozen=True)
class ReaderConfig:
    """What every process needs to know: DICOM keywords to bring along, who is let in, and the model folder, or the
    size of canonical pixels when there is to be no model; whether to make thumbnails. file: what an index keeps of a
    file's sha256."""

    model: Path | int
    keywords: tuple[str, ...]
    gates: Gates
    thumbnails: bool = False
    file: Callable[[str], str] = str


class Readers:
    """A pool of processes that read and embed, in order, within a bounded window."""

    def __init__(self, workers: int, config: ReaderConfig) -> None:
        self.workers, self.config = workers, config
        self.pool = self._start(workers)

    def read(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome]]:
        waiting: deque[tuple[list[Task], Future[list[Outcome]]]] = deque()
        while chunk := list(islice(tasks, CHUNK)):
            waiting.append((chunk, self.pool.submit(read_files, chunk)))
            if len(waiting) >= self.workers * _AHEAD:
                yield from self._next(waiting)
        while waiting:
            yield from self._next(waiting)

    def stop(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, waiting: deque[tuple[list[Task], Future[list[Outcome]]]]) -> list[tuple[Task, Outcome]]:
        chunk, future = waiting.popleft()
        try:
            return list(zip(chunk, future.result(), strict=True))
        except BrokenProcessPool:
            # Which file it was is not known: this chunk is read one by one, the others once more in a new pool.
            outcomes = [(task, self._read_alone(task)) for task in chunk]
            self.pool = self._start(self.workers)
            again = [(other, self.pool.submit(read_files, other)) for other, _ in waiting]
            waiting.clear()
            waiting.extend(again)
            return outcomes

    def _read_alone(self, task: Task) -> Outcome:
        with self._start(1) as alone:
            try:
                return alone.submit(read_files, [task]).result()[0]
            except BrokenProcessPool:
                return ImageError(
                    Reason.READER_DIED,
                    f"{task.label}: reading it ended the process that did, or took more than {SECONDS_PER_FILE} s",
                )

    def _start(self, workers: int) -> ProcessPoolExecutor:
        # Not forked: a fork of a process with threads may deadlock.
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ready, (self.config,))


_config: ReaderConfig
_encoder: Encoder | None
_size: int


def _ready(config: ReaderConfig) -> None:
    global _config, _encoder, _size
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _config = config
    _encoder = None if isinstance(config.model, int) else Encoder(config.model, threads=1)
    _size = config.model if isinstance(config.model, int) else read_card(config.model).image_size


def read_files(tasks: list[Task]) -> list[Outcome]:
    """In a process of the pool: each file read, and all their pictures embedded at once."""
    outcomes = [_read_file(task) for task in tasks]
    pictures = [picture for found in outcomes if isinstance(found, _DecodedFile) for picture in found.pictures]
    arrays = iter(_arrays(pictures) if pictures else ())
    return [found.prepared(arrays) if isinstance(found, _DecodedFile) else found for found in outcomes]


def _arrays(pictures: list[NDArray[np.float32]]) -> NDArray[np.float32] | NDArray[np.uint8]:
    if _encoder is not None:
        return _encoder.embed(pictures)
    return np.rint(np.stack(pictures) * 255).astype(np.uint8)


@dataclass(frozen=True)
class _DecodedFile:
    """A file between reading and embedding."""

    sha256: str
    images: list[Radiograph]
    pictures: list[NDArray[np.float32]]
    thumbnails: list[bytes | None]
    size: int

    def prepared(self, arrays: Iterator[NDArray[np.float32] | NDArray[np.uint8]]) -> ReadFile:
        images = [
            PreparedImage(next(arrays), image.width, image.height, image.projection, pixel_digest(picture), thumbnail)
            for image, picture, thumbnail in zip(self.images, self.pictures, self.thumbnails, strict=True)
        ]
        return ReadFile(self.sha256, images, self.size, self.images[0].header)


def _read_file(task: Task) -> _DecodedFile | Outcome:
    signal.alarm(SECONDS_PER_FILE)  # unanswered, it ends the process: also inside a decoder's own code
    try:
        return _decode_file(task)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError(Reason.TOO_LARGE, f"{task.label}: reading it takes more than {MEMORY_BYTES // 2**30} GiB")
    finally:
        signal.alarm(0)


def _decode_file(task: Task) -> _DecodedFile | ReadFile:
    record, known = task.record, task.known
    if record.problem is not None:
        raise record.problem
    data = read_bytes(record.path, task.label)
    sha256 = _config.file(digest(data))
    same = known is not None and known.sha256 == sha256
    if same and (not _config.keywords or (known is not None and known.row_hash == task.row_hash)):
        return ReadFile(sha256, None, len(data))
    images = decode(data, task.label, _config.keywords, _config.gates)
    if same:
        return ReadFile(sha256, None, len(data), images[0].header)
    pictures = [canonical(image, _size) for image in images]
    thumbnails = [jpeg(grey(image, SIDE)) if _config.thumbnails else None for image in images]
    return _DecodedFile(sha256, images, pictures, thumbnails, len(data))
