"""A dataset, or a part of it, into a file of embeddings: reading and embedding without an index."""

from __future__ import annotations

import logging
import time
from itertools import islice
from pathlib import Path

import numpy as np

from cxrsearch import settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, MappingError, UsageError
from cxrsearch.imaging.radiograph import projection
from cxrsearch.report.progress import Progress
from indexer.dataset import Dataset
from indexer.embeddings_file import EmbeddingsWriter, Provenance, writing
from indexer.pipeline import Options, lateral
from indexer.points import EmbeddedImage, PointMaker
from indexer.readers import Outcome, ReaderConfig, Readers, Task
from indexer.summary import Summary

log = logging.getLogger("cxrsearch")


def embed(data: Dataset, to: Path, model: Path, options: Options, part: tuple[int, int] = (1, 1)) -> Summary:
    """Write the embeddings of one part of a dataset: ``part`` of so many equal ones, in its own order.

    Gives a summary, of which ``indexed`` are the embedded images. Raises UsageError, InputError, ModelError.
    """
    if to.suffix.lower() != ".parquet":
        raise UsageError(f"--to {to}: write to a file that ends in .parquet")
    if to.exists():
        raise UsageError(f"--to {to}: is there already, and whole. Remove it to embed again, or give another name.")
    card = Encoder(model).card  # runs it once here: each process has one of its own
    if not (key := settings.key_file()).exists():
        log.warning(f"note: {key} is a new key of pseudonyms; all parts and their index need this one")
    identity = load_identity(key, create=True)
    assert identity is not None
    points, name = PointMaker(data, identity), data.mapping.name
    if points.dates_need_the_header():
        raise MappingError(
            f"{name}: dates of the table are shifted by the patient number of the header, and so cannot be read apart"
            " from it; set dates of [privacy] otherwise, or index without a file of embeddings"
        )
    first, last = (len(data) * (part[0] - 1) // part[1], len(data) * part[0] // part[1])
    tasks = (Task(record, points.id(record), "", None) for record in islice(data.records(), first, last))
    config = ReaderConfig(model, data.mapping.dicom_keywords, options.gates, data.mapping.privacy.thumbnails)
    provenance = Provenance(
        name, card.name, card.fingerprint, card.dimensions, identity.embeddings(name), points.reading(), part, len(data)
    )
    summary, started = Summary(last - first), time.monotonic()
    readers = Readers(options.workers, config, identity.file)
    try:
        with writing(to, provenance) as file, Progress("embedding", summary.total) as progress:
            for task, outcome in readers.read(tasks):
                _add(file, points, task, outcome, options, summary)
                progress.advance()
    finally:
        readers.stop()
    summary.seconds = time.monotonic() - started
    return summary


def _add(
    file: EmbeddingsWriter, points: PointMaker, task: Task, outcome: Outcome, options: Options, summary: Summary
) -> None:
    if not isinstance(outcome, ImageError):
        record, unusable = points.dataset.complete(task.record, outcome.header)
        if options.gates.frontal_only and projection(str(record.payload.get("view", ""))) == "lateral":
            outcome = lateral(task)
        else:
            assert outcome.images is not None
            images = [
                EmbeddedImage(
                    points.of_file(record, outcome.sha256, image, frame, len(outcome.images)),
                    np.asarray(image.array, np.float32),
                    image.thumbnail,
                )
                for frame, image in enumerate(outcome.images, start=1)
            ]
            file.add(task.label, images)
            summary.indexed += len(images)
            summary.unusable.update(unusable)
            return
    summary.rejected[outcome.reason] += 1
    if task.record.problem is None:  # the dataset's own is known without this file
        file.reject(task.label, outcome)
    if (refusal := summary.refusal(summary.seen, options.max_rejected)) is not None:
        raise refusal
