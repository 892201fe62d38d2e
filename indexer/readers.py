"""Processes that read files and embed what they read, each file in bounded time and memory.

Learning, which wants the pictures themselves, reads by them too: a pool without a model gives canonical pixels.

Each process has an encoder of its own on one core: the cores never wait for each other, and a vector is a thousandth
of the picture to send. (One encoder on all cores, fed by reading processes, reached 79 % of its own rate on two cores;
this reaches more than 90 %.) A decoder that ends its process, or takes too long, costs the file it was at and no other.
Of a file such a process is given the path and nothing else: whose image it is, and the key of pseudonyms, stay here.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.isolated import Broken, Isolated
from cxrsearch.imaging.radiograph import Gates
from cxrsearch.imaging.read import digest, read_bytes
from cxrsearch.imaging.resizing import Resizing
from indexer.record import Record

# Of this machine: a process for each.
CORES = os.cpu_count() or 1
# Files a process takes at once: a batch for its encoder.
CHUNK = 16
# Chunks given out per process, so that none waits for the writer.
_AHEAD = 3
_WORK = "indexer.reader_process:work"


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
    pool without a model its canonical pixels, (S, S) uint8. digest: of the picture (canonical.py); thumbnail: a JPEG
    file, where those are wanted."""

    array: NDArray[np.float32] | NDArray[np.uint8]
    width: int
    height: int
    projection: str | None
    digest: str
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class ReadFile:
    """A file that was read. sha256: as the pool's ``file`` gives it; images: None when the file is the one already
    indexed; size: of the file, in bytes."""

    sha256: str
    images: list[PreparedImage] | None
    size: int
    header: Mapping[str, str] = field(default_factory=dict)


Outcome = ReadFile | ImageError


@dataclass(frozen=True)
class ReaderConfig:
    """What every process needs to know: DICOM keywords to bring along, who is let in, and the model folder, or the
    size of canonical pixels when there is to be no model, and how they become square; whether to make thumbnails;
    whether to embed, or to give the squares that the model takes."""

    model: Path | int
    keywords: tuple[str, ...]
    gates: Gates
    thumbnails: bool = False
    resizing: Resizing = Resizing.PAD
    embeds: bool = True


@dataclass(frozen=True)
class Digest:
    """Of a file: its sha256, hexadecimal, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Wanted:
    """What a process is asked for. header_only: the image is indexed already."""

    path: Path
    label: str
    header_only: bool


class Readers:
    """A pool of processes that read and embed, in order, within a bounded window."""

    def __init__(
        self,
        workers: int,
        config: ReaderConfig,
        file: Callable[[str], str] = str,
        encoder: Encoder | None = None,
    ) -> None:
        """file: what an index keeps of a file's sha256. encoder: embeds here, on a GPU, what the processes prepare."""
        self.workers, self.config, self._file = workers, replace(config, embeds=encoder is None), file
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(workers)  # each waits for a process of its own
        self._of_thread = threading.local()
        self._processes: list[Isolated] = []
        self._stopped = False

    def read(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome]]:
        waiting: deque[tuple[list[Task], Future[list[Outcome]]]] = deque()
        while chunk := list(islice(tasks, CHUNK)):
            waiting.append((chunk, self._threads.submit(list, self.each(chunk))))
            if len(waiting) >= self.workers * _AHEAD:
                yield from self._next(waiting)
        while waiting:
            yield from self._next(waiting)

    def stop(self) -> None:
        self._stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown()

    def _next(self, waiting: deque[tuple[list[Task], Future[list[Outcome]]]]) -> list[tuple[Task, Outcome]]:
        chunk, future = waiting.popleft()
        return list(zip(chunk, future.result(), strict=True))

    def each(self, tasks: list[Task]) -> Iterator[Outcome]:
        """What became of each file, in order."""
        known = [Wanted(task.record.path, task.label, True) for task in tasks if _is_to_be_compared(task)]
        digests = iter(self.digests(known) if known else ())
        outcomes = [self._known(task, next(digests) if _is_to_be_compared(task) else None) for task in tasks]
        wanted = [outcome for outcome in outcomes if isinstance(outcome, Wanted)]
        found = iter(self.outcomes(wanted) if wanted else ())
        for task, outcome in zip(tasks, outcomes, strict=True):
            yield self._keyed(task, next(found) if isinstance(outcome, Wanted) else outcome)

    def _known(self, task: Task, found: Digest | ImageError | None) -> Outcome | Wanted:
        """The outcome, where the file need not be decoded. found: of its bytes, where the index has it."""
        if task.record.problem is not None:
            return task.record.problem
        if isinstance(found, ImageError):
            return found
        if found is None or task.known is None or self._file(found.sha256) != task.known.sha256:
            return Wanted(task.record.path, task.label, header_only=False)
        if self.config.keywords and task.known.row_hash != task.row_hash:
            return Wanted(task.record.path, task.label, header_only=True)
        return ReadFile(found.sha256, None, found.size)

    def _keyed(self, task: Task, outcome: Outcome) -> Outcome:
        if isinstance(outcome, ImageError):
            return outcome
        # A file that changed since its header was asked for is found changed by the next run.
        known = task.known if outcome.images is None else None
        return replace(outcome, sha256=known.sha256 if known else self._file(outcome.sha256))

    def digests(self, files: list[Wanted]) -> Iterator[Digest | ImageError]:
        """Of the bytes of files, which nothing decodes."""
        for file in files:
            try:
                data = read_bytes(file.path, file.label)
                yield Digest(digest(data), len(data))
            except ImageError as error:
                yield error

    def outcomes(self, files: list[Wanted]) -> Iterable[Outcome]:
        """Files read and embedded.

        What a file did to its reader, it has to do to one that has read nothing before: then it is the file's own
        doing, and the verdict does not depend on what stood beside it.
        """
        try:
            return self._ask(files)
        except Broken as broken:
            if self._stopped:
                raise
            if len(files) == 1:
                return [broken.verdict(files[0].label)] if broken.fresh else self.outcomes(files)
            if broken.step >= len(files):  # while embedding: any of them
                return [outcome for file in files for outcome in self.outcomes([file])]
            alone = [*self.outcomes([files[broken.step]])]
            others = [*self.outcomes(files[: broken.step] + files[broken.step + 1 :])]
            return others[: broken.step] + alone + others[broken.step :]

    def _ask(self, asked: list[Wanted]) -> list[Outcome]:
        process = getattr(self._of_thread, "process", None)
        if process is None:
            process = self._of_thread.process = Isolated(_WORK, self.config)
            self._processes.append(process)
        if self._stopped:
            raise Broken(0, False, False)
        outcomes: list[Outcome | None] = []
        for facts, contents in process.ask(asked):
            if len(outcomes) < len(asked):
                outcomes.append(_early(facts))
            else:
                outcomes[facts["file"]] = _embedded(facts, contents)
        if len(outcomes) != len(asked) or None in outcomes:
            raise RuntimeError("a reader process left a file out")
        return self._embedded_here([outcome for outcome in outcomes if outcome is not None])

    def _embedded_here(self, outcomes: list[Outcome]) -> list[Outcome]:
        files = [outcome for outcome in outcomes if isinstance(outcome, ReadFile) and outcome.images]
        if self._encoder is None or not files:
            return outcomes
        pictures = [np.asarray(image.array, np.float32) for file in files for image in file.images or ()]
        vectors = iter(self._encoder.embed_prepared(pictures))  # a GPU is only busy with many at once
        return [
            replace(outcome, images=[replace(image, array=next(vectors)) for image in outcome.images])
            if isinstance(outcome, ReadFile) and outcome.images
            else outcome
            for outcome in outcomes
        ]


def _is_to_be_compared(task: Task) -> bool:
    return task.known is not None and task.record.problem is None


def _early(facts: dict[str, Any]) -> Outcome | None:
    """The outcome of a file that is not to be embedded; None of one that is."""
    if "reason" in facts:
        return ImageError(Reason(facts["reason"]), facts["message"])
    return None if facts["embedding"] else ReadFile(facts["sha256"], None, facts["size"], facts["header"])


def _embedded(facts: dict[str, Any], contents: list[bytearray]) -> ReadFile:
    """contents: of each image its array, and its thumbnail where that was wanted."""
    images, parts = [], iter(contents)
    for width, height, projection, pixels, dtype, shape, pictured in facts["images"]:
        array = np.frombuffer(next(parts), dtype=dtype).reshape(shape)
        thumbnail = bytes(next(parts)) if pictured else None
        images.append(PreparedImage(array, width, height, projection, pixels, thumbnail))
    return ReadFile(facts["sha256"], images, facts["size"], facts["header"])
