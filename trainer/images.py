"""The images of a configuration, in memory, with what learning and judging need to know of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical import Payload, values_of
from cxrsearch.errors import ImageError, InputError
from cxrsearch.radiograph import DEFAULT_GATES
from indexer import dataset as datasets
from indexer.readers import How, Readers, Task
from trainer.config import Config
from trainer.duplicates import patient_groups

# What a search by the looks of a whole image alone would compare.
THUMBNAIL = 32


@dataclass(frozen=True)
class Images:
    """N radiographs.

    pixels: (N, S, S) uint8, canonical. shapes: (N, 2), height and width as read. file_bytes: (N,).
    labels: (N,), the number of the class in ``classes``, -1 where it has none.
    patients: N names, None where nothing tells whose it is. stems: file names without ending.
    datasets: N names. payloads: N, the clinical facts of each.
    """

    classes: tuple[str, ...]
    pixels: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    file_bytes: NDArray[np.int64]
    labels: NDArray[np.int64]
    patients: list[str | None]
    stems: list[str]
    datasets: list[str]
    payloads: list[Payload]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Images:
        """The images of a mask (N,) or of numbers, in that order."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Images(
            self.classes, self.pixels[index], self.shapes[index], self.file_bytes[index], self.labels[index],
            *([values[i] for i in index] for values in (self.patients, self.stems, self.datasets)),
            [self.payloads[i] for i in index],
        )  # fmt: skip

    @property
    def owners(self) -> NDArray[np.str_]:
        """(N,) patients; an image of an unknown one is a patient of its own."""
        return np.array([p if p is not None else f"?{n}" for n, p in enumerate(self.patients)])

    def values(self, field: str) -> list[str | None]:
        """N values of a field (the first, where an image has several) as text; ``dataset`` is one too."""
        if field == "dataset":
            return list(self.datasets)
        found = (values_of(payload, field) for payload in self.payloads)
        return [str(values[0]) if values else None for values in found]

    def content(self) -> list[tuple[slice, slice]]:
        """Where in its canonical pixels each image is; the rest is padding."""
        size, found = self.pixels.shape[1], []
        for height, width in self.shapes.tolist():
            scale = size / max(height, width)
            rows, columns = (min(size, max(1, round(side * scale))) for side in (height, width))
            top, left = (size - rows) // 2, (size - columns) // 2
            found.append((slice(top, top + rows), slice(left, left + columns)))
        return found


@dataclass(frozen=True)
class LeftOut:
    """What a configuration's datasets have and learning does not get, in numbers of images."""

    unreadable: int = 0
    unlabelled: int = 0
    no_patient: int = 0

    def __str__(self) -> str:
        words = {"cannot be read": self.unreadable, "without a class": self.unlabelled,
                 "without a patient number": self.no_patient}  # fmt: skip
        return ", ".join(f"{number} {what}" for what, number in words.items() if number)


def load(
    config: Config, allow_leakage: bool = False, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Images, LeftOut]:
    """Every image of the configuration that can be read and learnt from.

    An image without a patient number gets its patient from its near duplicates (``trainer/duplicates.py``); one that
    has none, and a class, could be in training and in test at once, and is left out. With ``allow_leakage`` it
    stays, as if its patient had no other image.

    advance: told how many of how many files are done. Raises InputError when fewer than two classes are left.
    """
    images, unreadable = read([datasets.load(s.mapping, _root(s.root)) for s in config.data], config, advance)
    named = {d for source in config.data if source.labelled for d in [_name(source.mapping, source.root)]}
    labelled = np.array([name in named for name in images.datasets], dtype=bool) & (images.labels >= 0)
    images = replace(
        images, labels=np.where(labelled, images.labels, -1), patients=patient_groups(images)
    )  # fmt: skip
    unknown = np.array([patient is None for patient in images.patients]) & labelled
    unlabelled = sum(name in named for name in images.datasets) - int(labelled.sum())
    if allow_leakage:
        left, kept = LeftOut(unreadable, unlabelled), images
    else:
        left, kept = LeftOut(unreadable, unlabelled, int(unknown.sum())), images.part(~unknown)
    present = Counter(kept.labels[kept.labels >= 0].tolist())
    if len(present) < 2:
        raise InputError(
            f"{config.name}: fewer than two classes have images with a patient number; nothing to learn ({left})."
            " Map the patient in the dataset TOML; --allow-leakage takes each image for a patient of its own."
        )
    return kept, left


def _root(root: str | None) -> Path | None:
    return None if root is None else Path(root)


def _name(mapping: str, root: str | None) -> str:
    return datasets.load(mapping, _root(root)).mapping.name


def read(
    sets: Sequence[datasets.Dataset], config: Config, advance: Callable[[int, int], None]
) -> tuple[Images, int]:
    """All images of some datasets, whoever's they are, and how many files could not be read."""
    tasks = [
        (data, Task(record, record.key, "", None)) for data in sets for record in data.records()
    ]  # fmt: skip
    pixels, shapes, sizes, patients, stems, names, payloads = [], [], [], [], [], [], []  # type: ignore[var-annotated]
    unreadable, done = 0, 0
    for data in sets:
        mine = [task for owner, task in tasks if owner is data]
        readers = Readers(os.cpu_count() or 1, How(config.network.image_size, data.mapping.dicom_keywords, DEFAULT_GATES))
        try:
            for task, outcome in readers.read(iter(mine)):
                done += 1
                advance(done, len(tasks))
                if isinstance(outcome, ImageError) or outcome.images is None:
                    unreadable += 1
                    continue
                record, _ = data.complete(task.record, outcome.header)
                for image in outcome.images:
                    pixels.append(image.array)
                    shapes.append((image.height, image.width))
                    sizes.append(outcome.size)
                    patients.append(record.patient and f"{data.mapping.patient_namespace}/{record.patient}")
                    stems.append(PurePosixPath(record.key).stem)
                    names.append(data.mapping.name)
                    payloads.append(record.payload)
        finally:
            readers.stop()
    if not pixels:
        raise InputError(f"{config.name}: none of the {len(tasks)} files of its datasets can be read as a radiograph")
    classes, labels = _labels(config, payloads)
    return Images(
        classes, np.stack(pixels), np.array(shapes), np.array(sizes), labels, patients, stems, names, payloads
    ), unreadable  # fmt: skip


def _labels(config: Config, payloads: list[Payload]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    found = [{str(value) for value in values_of(payload, config.label)} for payload in payloads]
    classes = config.classes or {value: [value] for value in sorted(set().union(*found))}
    numbers = [next((n for n, values in enumerate(classes.values()) if own & set(values)), -1) for own in found]
    return tuple(classes), np.array(numbers, dtype=np.int64)
