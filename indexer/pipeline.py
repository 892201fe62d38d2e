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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice, takewhile
from pathlib import Path
from typing import TextIO

import numpy as np

from cxrsearch.clinical.expression import And, Compare, Equals
from cxrsearch.clinical.fields import AFFIRMED, ROW_HASH, Payload
from cxrsearch.clinical.identity import Identity
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, InputError, Reason
from cxrsearch.imaging.radiograph import DEFAULT_GATES, Gates, projection
from cxrsearch.report.progress import Progress
from cxrsearch.store.contract import Point, VectorStore
from cxrsearch.store.recall import settle
from cxrsearch.text import clean
from cxrsearch.voting.nearness import learn
from indexer import negation
from indexer.dataset import Dataset
from indexer.privacy import protect
from indexer.readers import IndexedState, Outcome, PreparedImage, ReaderConfig, Readers, ReadFile, Task
from indexer.record import Record
from indexer.summary import Rejection, Summary, repeated, unknown_patients

# Images stored and flushed at once: what a kill costs. Flushing takes 20 ms however many they are.
_BATCH = 128
log = logging.getLogger("cxrsearch")
# Files looked at before the share of rejected ones is held against the mapping.
_BEFORE_JUDGING = 100


@dataclass(frozen=True)
class Options:
    """How to run. limit: only the first so many files; only: only those with these labels; again: take in
    patients that were forgotten; prune: delete what the dataset no longer has; max_rejected: share, 0..1."""

    workers: int
    gates: Gates = DEFAULT_GATES
    limit: int | None = None
    only: frozenset[str] | None = None
    again: bool = False
    prune: bool = False
    max_rejected: float = 0.5


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
    readers = Readers(options.workers, config, identity.file, encoder)
    try:
        with Progress("indexing", total) as progress, _Interruption() as interruption:
            for task, outcome in readers.read(islice(writer.tasks(), options.limit)):
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
        readers.stop()
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
        self.pictured = self.mapping.privacy.thumbnails and store.thumbnails.keeps
        self._mine = Equals("dataset", (self.mapping.name,))
        self.known = self._known()
        self.labels: set[str] = set()
        self.batch: list[Point] = []
        self.changed: dict[str, Payload] = {}  # of stored points, by id
        self.updated = 0  # files that these belong to
        self.thumbnails: dict[str, bytes] = {}
        self.from_header = {name for name, mapped in self.mapping.entering.items() if mapped.dicom}

    def tasks(self) -> Iterator[Task]:
        for record in self.dataset.records():
            label = self._label(record)
            self.labels.add(label)
            if self.options.only is None or label in self.options.only:
                id = self._id(record, 1)
                # One whose thumbnail is gone, or was never made, is read again.
                known = self.known.get(id) if not self.pictured or self.store.thumbnails.has(id) else None
                yield Task(record, label, self.dataset.row_hash(record, self.identity), known)

    def take(self, task: Task, outcome: Outcome) -> None:
        if isinstance(outcome, ImageError):
            self._reject(task, outcome)
            return
        record, unusable = self.dataset.complete(task.record, outcome.header)
        if self.options.gates.frontal_only and projection(str(record.payload.get("view", ""))) == "lateral":
            self._reject(task, ImageError(Reason.VIEW, f"{task.label}: a lateral view by its facts; see --views"))
            return
        patient = None
        if record.patient is not None:
            patient = self.identity.patient(self.mapping.patient_namespace, record.patient)
            if (trace := self.identity.forgotten(patient)) in self.store.facts.forgotten:
                if not self.options.again:
                    self.summary.forgotten += 1
                    return
                self.store.declare(replace(self.store.facts, forgotten=self.store.facts.forgotten - {trace}))
        self.summary.unusable.update(unusable)
        if outcome.images is not None:
            self._drop_frames(task, record, len(outcome.images) + 1)
            for frame, image in enumerate(outcome.images, start=1):
                payload = self._payload(task, record, patient, outcome.sha256, image, frame, len(outcome.images))
                id = self._id(record, frame)
                self.batch.append(Point(id, payload, np.asarray(image.array, dtype=np.float32)))
                if image.thumbnail is not None:
                    self.thumbnails[id] = image.thumbnail
            if len(self.batch) >= _BATCH:
                self.flush()
        elif task.known is not None and task.known.row_hash == task.row_hash:
            self.summary.unchanged += 1
        else:
            self._update(task, record, patient, outcome)

    def flush(self) -> None:
        """Store the batch; once this returns, its images count as indexed or updated."""
        if self.changed:
            self.store.set_payloads(self.changed)
            self.summary.updated += self.updated
            self.changed, self.updated = {}, 0
        if not self.batch:
            return
        for id, picture in self.thumbnails.items():
            self.store.thumbnails.put(id, picture)
        self.store.upsert(self.batch)
        self.summary.indexed += len(self.batch)
        log.debug(f"stored {self.summary.indexed} images")
        self.batch, self.thumbnails = [], {}

    def prune(self) -> None:
        """Count, and when asked delete, what the index has of this dataset and the dataset no longer has."""
        gone = {str(p.payload["path"]) for p in self.store.scroll(self._mine, fields=["path"])} - self.labels
        if gone:
            which = And((self._mine, Equals("path", tuple(sorted(gone)))))
            self.summary.pruned = self.options.prune
            self.summary.gone = self.store.delete(which) if self.options.prune else self.store.count(which)

    def _drop_frames(self, task: Task, record: Record, first: int) -> None:
        """Delete what the index has of the file from frame ``first`` on. Before the other frames are stored, so that a
        run that is killed in between reads the file again."""
        if self._id(record, first) in self.known:
            of_file = Equals("path", (task.label,))
            self.store.delete(And((self._mine, of_file, Compare("frame", ">=", first))))

    def _known(self) -> dict[str, IndexedState]:
        fields = ["image_sha256", "width", "height", "projection", "picture", ROW_HASH]
        points = self.store.scroll(self._mine, fields=fields)
        found = {}
        for p in points:
            view = p.payload.get("projection")
            found[p.id] = IndexedState(
                str(p.payload["image_sha256"]),
                str(p.payload[ROW_HASH]),
                int(str(p.payload["width"])),
                int(str(p.payload["height"])),
                None if view is None else str(view),
                str(p.payload["picture"]),
            )
        return found

    def _update(self, task: Task, record: Record, patient: str | None, read: ReadFile) -> None:
        """The same image with other facts: its vectors stay, for every frame of it."""
        ids = list(takewhile(self.known.__contains__, (self._id(record, frame) for frame in count(1))))
        for frame, point in enumerate(ids, start=1):
            payload = self._payload(task, record, patient, read.sha256, self.known[point], frame, len(ids))
            self.changed[point] = payload
        self.updated += 1
        if len(self.changed) >= _BATCH:
            self.flush()

    def _payload(
        self,
        task: Task,
        record: Record,
        patient: str | None,
        sha256: str,
        image: PreparedImage | IndexedState,
        frame: int,
        frames: int,
    ) -> Payload:
        mapping, name = self.mapping, self.mapping.name
        payload: Payload = {
            "dataset": name,
            "path": task.label,
            "image_sha256": sha256,
            "picture": self.identity.picture(image.digest) if isinstance(image, PreparedImage) else image.picture,
            "width": image.width,
            "height": image.height,
            ROW_HASH: task.row_hash,
            **protect(
                record.payload,
                mapping.declared,
                self.from_header,
                mapping.privacy,
                self.identity,
                mapping.patient_namespace,
                record.patient or record.key,
            ),
        }
        payload |= {AFFIRMED + name: negation.affirmed(payload[name]) for name in self.dataset.notes if name in payload}
        view = image.projection or projection(str(record.payload.get("view", "")))
        if view is not None:
            payload["projection"] = view
        if frames > 1:
            payload["frame"] = frame
        if patient is not None:
            payload["patient"] = patient
        if record.study is not None:
            namespace = (mapping.study.namespace if mapping.study else None) or name
            payload["study"] = self.identity.study(namespace, record.study)
        return payload

    def _id(self, record: Record, frame: int) -> str:
        return self.identity.point(self.mapping.name, record.key, frame)

    def _label(self, record: Record) -> str:
        if self.mapping.privacy.paths == "hashed":
            return self.identity.path(self.mapping.name, record.key)
        return clean(record.key)

    def _reject(self, task: Task, error: ImageError) -> None:
        self.summary.rejected[error.reason] += 1
        rejection = Rejection(task.label, error.reason, clean(str(error)), task.record.row)
        self.rejected.write(json.dumps(asdict(rejection), ensure_ascii=False) + "\n")
        self.rejected.flush()
        bad, seen = self.summary.rejected.total(), self.summary.seen + len(self.batch) + self.updated
        if self.options.only is None and seen >= _BEFORE_JUDGING and bad > self.options.max_rejected * seen:
            reason, number = self.summary.rejected.most_common(1)[0]
            self.flush()
            raise InputError(
                f"{bad} of the first {seen} files were rejected, {number} of them as {reason}: the mapping or --root is"
                " probably wrong. If it is not, raise --max-rejected."
            )


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
