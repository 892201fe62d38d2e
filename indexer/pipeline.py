"""Records -> points: processes read and embed, one writer stores.

    records -> [readers: file -> embedding, in order, a bounded window ahead] -> batches -> store.upsert

The index is the only state: what is already there and unchanged is not embedded twice, and a killed run goes on
by being started again.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np

from cxrsearch.clinical.expression import And, Compare, Equals
from cxrsearch.clinical.fields import ROW_HASH, Payload, Value
from cxrsearch.clinical.identity import Identity
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.radiograph import DEFAULT_GATES, Gates, projection
from cxrsearch.report.progress import Progress
from cxrsearch.store.contract import Point, VectorStore
from cxrsearch.store.recall import settle
from cxrsearch.text import clean
from cxrsearch.voting.nearness import learn
from indexer.dataset import Dataset
from indexer.points import EmbeddedFile, EmbeddedImage, PointMaker
from indexer.readers import IndexedState, Outcome, PreparedImage, ReaderConfig, Readers, Task
from indexer.record import Record
from indexer.summary import Rejection, Summary, repeated, unknown_patients

# Images stored and flushed at once: what a kill costs. Flushing takes 20 ms however many they are.
_BATCH = 128
log = logging.getLogger("cxrsearch")


class Engine(Protocol):
    """Where files are read and embedded: in processes of this machine (readers.py), or elsewhere."""

    def read(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome | EmbeddedFile | None]]:
        """What became of each file; None where it was not looked at."""
        ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Options:
    """How to run. limit: only the first so many files; only: only those with these labels; again: take in
    patients that were forgotten; prune: delete what the dataset no longer has; max_rejected: share, 0..1;
    engine: made of what readers need to know and of what an index keeps of a file's sha256."""

    workers: int
    gates: Gates = DEFAULT_GATES
    limit: int | None = None
    only: frozenset[str] | None = None
    again: bool = False
    prune: bool = False
    max_rejected: float = 0.5
    engine: Callable[[ReaderConfig, Callable[[str], str]], Engine] | None = None


def run(
    dataset: Dataset,
    store: VectorStore,
    model: Path,
    identity: Identity,
    rejected: TextIO,
    options: Options,
    encoder: Encoder | None = None,
) -> Summary:
    """Bring the index up to the dataset. A file that cannot be read is rejected and the run goes on.

    model: a model folder. encoder: its, where it embeds in this process, on a GPU. rejected: where rejections are
    written, one JSON object a line.
    Ctrl-C ends it early, with what was stored so far kept; ``Summary.interrupted`` says so.
    Raises InputError when more than ``max_rejected`` of the files are rejected.
    """
    total = min(len(dataset) if options.only is None else len(options.only), options.limit or len(dataset))
    summary, started = Summary(total), time.monotonic()
    writer = _Writer(dataset, store, identity, rejected, options, summary)
    config = ReaderConfig(model, dataset.mapping.dicom_keywords, options.gates, writer.pictured)
    make = options.engine or partial(Readers, options.workers, encoder=encoder)
    engine = make(config, identity.file)
    try:
        with Progress("indexing", total) as progress, _Interruption() as interruption:
            for task, outcome in engine.read(islice(writer.tasks(), options.limit)):
                writer.take(task, outcome)
                progress.advance()
                if interruption.asked:
                    summary.interrupted = True
                    break
            writer.flush()
        summary.unknown, summary.repeated = unknown_patients(store, dataset), repeated(store, dataset)
        if not summary.interrupted:
            if options.limit is None and options.only is None:
                writer.prune()
            settle(store)
            if summary.indexed or summary.updated or summary.pruned or store.facts.nearness is None:
                found = learn(store)
                if found is not None:
                    store.declare(replace(store.facts, nearness=found.as_json()))
    finally:
        engine.stop()
    summary.seconds = time.monotonic() - started
    return summary


class _Writer:
    """Turns what the readers give into stored points, a batch at a time."""

    def __init__(
        self,
        dataset: Dataset,
        store: VectorStore,
        identity: Identity,
        rejected: TextIO,
        options: Options,
        summary: Summary,
    ) -> None:
        self.dataset, self.mapping, self.store = dataset, dataset.mapping, store
        self.identity, self.rejected, self.options, self.summary = (
            identity,
            rejected,
            options,
            summary,
        )
        self.points = PointMaker(dataset, identity)
        self.pictured = self.mapping.privacy.thumbnails and store.thumbnails.keeps
        self._mine = Equals("dataset", (self.mapping.name,))
        self.known = self._known()
        self.labels: set[str] = set()
        self.batch: list[Point] = []
        self.changed: dict[str, Payload] = {}  # of stored points, by id
        self.updated = 0  # files that these belong to
        self.thumbnails: dict[str, bytes] = {}
        self.in_hand: dict[str, Record] = {}  # of each patient of these, a row
        self.taken_in: set[str] = set()  # marks of forgotten patients that this run took off

    def tasks(self) -> Iterator[Task]:
        for record in self.dataset.records():
            label = self.points.label(record)
            self.labels.add(label)
            if self.options.only is None or label in self.options.only:
                id = self.points.id(record, 1)
                # One whose thumbnail is gone, or was never made, is read again.
                known = self.known.get(id) if not self.pictured or self.store.thumbnails.has(id) else None
                yield Task(record, label, self.dataset.row_hash(record, self.identity), known)

    def take(self, task: Task, outcome: Outcome | EmbeddedFile | None) -> None:
        if outcome is None:
            self._pass_over(task)
            return
        if isinstance(outcome, ImageError):
            self._reject(task, outcome)
            return
        if isinstance(outcome, EmbeddedFile):
            self._store(task, outcome.images, [self.points.whole(task, task.record, i.facts) for i in outcome.images])
            return
        record, unusable = self.dataset.complete(task.record, outcome.header)
        if self.options.gates.frontal_only and projection(str(record.payload.get("view", ""))) == "lateral":
            self._reject(task, lateral(task))
            return
        images: Sequence[PreparedImage | IndexedState] = outcome.images or self._indexed(record)
        payloads = [
            self.points.whole(task, record, self.points.of_file(record, outcome.sha256, image, frame, len(images)))
            for frame, image in enumerate(images, start=1)
        ]
        if self._store(task, outcome.images, payloads):
            self.summary.unusable.update(unusable)

    def _store(
        self, task: Task, images: Sequence[PreparedImage | EmbeddedImage] | None, payloads: list[Payload]
    ) -> bool:
        """Put the images of a file into the batch, or their payloads where the index has these images; False where
        their patient was forgotten. images: None where they are those that the index has."""
        patient, forgotten = payloads[0].get("patient"), self.store.facts.forgotten
        marks = self._marks(patient, task.record) & forgotten if forgotten else set[str]()
        if marks:
            if not self.options.again:
                self.summary.forgotten += 1
                if self.points.id(task.record) in self.known:  # by another of their pseudonyms
                    self._delete_patients(self._names(patient, task.record))
                return False
            self.store.declare(replace(self.store.facts, forgotten=forgotten - marks))
            self.taken_in |= marks
        is_same = images is None or (task.known is not None and task.known.sha256 == payloads[0]["image_sha256"])
        if is_same and task.known is not None and task.known.row_hash == task.row_hash:
            self.summary.unchanged += 1
            return True
        if patient is not None:
            self.in_hand[str(patient)] = task.record
        if images is None or is_same:
            self._update(task, payloads)
            return True
        self._drop_frames(task, len(images) + 1)
        for frame, (image, payload) in enumerate(zip(images, payloads, strict=True), start=1):
            id = self.points.id(task.record, frame)
            self.batch.append(Point(id, payload, np.asarray(image.array, dtype=np.float32)))
            if image.thumbnail is not None and self.pictured:  # a stranger's file may hold one that is not wanted
                self.thumbnails[id] = image.thumbnail
        if len(self.batch) >= _BATCH:
            self.flush()
        return True

    def flush(self) -> None:
        """Store the batch; once this returns, its images count as indexed or updated."""
        if self.changed:
            self.store.set_payloads(self.changed)
            files = _files(self._delete_forgotten(self.changed.values()))
            self.summary.updated += self.updated - files
            self.summary.forgotten += files
            self.changed, self.updated = {}, 0
        if self.batch:
            for id, picture in self.thumbnails.items():
                self.store.thumbnails.put(id, picture)
            self.store.upsert(self.batch)
            gone = self._delete_forgotten(point.payload for point in self.batch)
            self.summary.indexed += len(self.batch) - len(gone)
            self.summary.forgotten += _files(gone)
            log.debug(f"stored {self.summary.indexed} images")
            self.batch, self.thumbnails = [], {}
        self.in_hand = {}

    def _delete_forgotten(self, stored: Iterable[Payload]) -> list[Payload]:
        """Of what was just stored, delete the patients whom another process has forgotten since the run looked; which
        payloads were theirs. Forgetting marks a patient before it deletes: it was seen here, or deletes these too."""
        self.store.reload()
        marks = self.store.facts.forgotten - self.taken_in
        if not marks:
            return []
        forgotten = {patient for patient, record in self.in_hand.items() if self._marks(patient, record) & marks}
        if gone := [payload for payload in stored if payload.get("patient") in forgotten]:
            self._delete_patients({name for one in forgotten for name in self._names(one, self.in_hand[one])})
        return gone

    def _names(self, patient: Value | None, record: Record) -> set[str]:
        """The pseudonyms of a row's patient, older versions' too."""
        return set() if patient is None else {str(patient)} | self.points.patients(record)

    def _marks(self, patient: Value | None, record: Record) -> set[str]:
        """Those by which a row's patient may have been forgotten."""
        return {self.identity.forgotten(name) for name in self._names(patient, record)}

    def _delete_patients(self, names: Iterable[str]) -> None:
        self.store.delete(Equals("patient", tuple(sorted(names))))

    def prune(self) -> None:
        """Count, and when asked delete, what the index has of this dataset and the dataset no longer has."""
        gone = {str(p.payload["path"]) for p in self.store.scroll(self._mine, fields=["path"])} - self.labels
        if gone:
            which = And((self._mine, Equals("path", tuple(sorted(gone)))))
            self.summary.pruned = self.options.prune
            self.summary.gone = self.store.delete(which) if self.options.prune else self.store.count(which)

    def _drop_frames(self, task: Task, first: int) -> None:
        """Delete what the index has of the file from frame ``first`` on. Before the other frames are stored, so that a
        run that is killed in between reads the file again."""
        if self.points.id(task.record, first) in self.known:
            of_file = Equals("path", (task.label,))
            self.store.delete(And((self._mine, of_file, Compare("frame", ">=", first))))

    def _known(self) -> dict[str, IndexedState]:
        fields = ["image_sha256", "width", "height", "projection", "picture", ROW_HASH, "patient"]
        points = self.store.scroll(self._mine, fields=fields)
        found, marks = {}, self.store.facts.forgotten
        forgotten: set[str] = set()  # of whom a run that was killed left images
        for p in points:
            patient = str(p.payload.get("patient"))
            if patient in forgotten or (marks and self.identity.forgotten(patient) in marks):
                forgotten.add(patient)
                continue
            view = p.payload.get("projection")
            found[p.id] = IndexedState(
                str(p.payload["image_sha256"]),
                str(p.payload[ROW_HASH]),
                int(str(p.payload["width"])),
                int(str(p.payload["height"])),
                None if view is None else str(view),
                str(p.payload["picture"]),
            )
        if forgotten:
            self._delete_patients(forgotten)
        return found

    def _indexed(self, record: Record) -> list[IndexedState]:
        """What the index has of every frame of a file."""
        ids = (self.points.id(record, frame) for frame in count(1))
        return [self.known[id] for id in takewhile(self.known.__contains__, ids)]

    def _update(self, task: Task, payloads: list[Payload]) -> None:
        """The same image with other facts: its vectors stay, for every frame of it."""
        self.changed |= {self.points.id(task.record, frame): payload for frame, payload in enumerate(payloads, start=1)}
        self.updated += 1
        if len(self.changed) >= _BATCH:
            self.flush()

    def _pass_over(self, task: Task) -> None:
        if task.known is not None and task.known.row_hash == task.row_hash:
            self.summary.unchanged += 1
        else:
            self.summary.absent += 1
            self.summary.first_absent = self.summary.first_absent or task.label

    def _reject(self, task: Task, error: ImageError) -> None:
        self.summary.rejected[error.reason] += 1
        rejection = Rejection(task.label, error.reason, clean(str(error)), task.record.row)
        self.rejected.write(json.dumps(asdict(rejection), ensure_ascii=False) + "\n")
        self.rejected.flush()
        seen = self.summary.seen + len(self.batch) + self.updated
        if self.options.only is None and (refusal := self.summary.refusal(seen, self.options.max_rejected)) is not None:
            self.flush()
            raise refusal


def _files(payloads: Iterable[Payload]) -> int:
    """How many files these are of."""
    return len({str(payload["path"]) for payload in payloads})


def lateral(task: Task) -> ImageError:
    return ImageError(Reason.VIEW, f"{task.label}: a lateral view by its facts; see --views")


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
