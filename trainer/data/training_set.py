"""The images of a configuration, in memory, with what learning and judging need to know of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrsearch.clinical.fields import Payload, values_of
from cxrsearch.errors import ImageError, InputError
from cxrsearch.imaging.radiograph import DEFAULT_GATES
from indexer import dataset as datasets
from indexer.readers import ReaderConfig, Readers, Task
from trainer.config import Config
from trainer.data.images import Images
from trainer.data.patients import near_duplicates, patient_groups


@dataclass(frozen=True)
class LeftOut:
    """What a configuration's datasets have and learning does not get, in numbers of images."""

    unreadable: int = 0
    unlabelled: int = 0
    no_patient: int = 0

    def __str__(self) -> str:
        words = {
            "cannot be read": self.unreadable,
            "without a class": self.unlabelled,
            "without a patient number": self.no_patient,
        }
        return ", ".join(f"{number} {what}" for what, number in words.items() if number)


def load(
    config: Config, allow_leakage: bool = False, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Images, LeftOut]:
    """Every image of the configuration that can be read and learnt from.

    An image without a patient number gets its patient from its near duplicates (``trainer/data/patients.py``); one that
    has none, and a class, could be in training and in test at once, and is left out. With ``allow_leakage`` it
    stays, as if its patient had no other image.

    advance: told how many of how many files are done. Raises InputError when fewer than two classes are left.
    """
    sets = [datasets.load(s.mapping, None if s.root is None else Path(s.root)) for s in config.data]
    found, unreadable = read(sets, config.network.image_size, advance)
    images = labelled(found, config.label, config.classes)
    taught = {data.mapping.name for data, source in zip(sets, config.data, strict=True) if source.labelled}
    of_taught = np.array([name in taught for name in images.datasets])
    groups = patient_groups(images, near_duplicates(images))
    images = replace(images, labels=np.where(of_taught, images.labels, -1), patients=groups)
    classed = images.labels >= 0
    without_class = int((of_taught & ~classed).sum())
    lost = classed & np.array([patient is None for patient in images.patients])
    left = LeftOut(unreadable, without_class)
    if not allow_leakage:
        images, left = images.part(~lost), replace(left, no_patient=int(lost.sum()))
    if len(set(images.labels[images.labels >= 0].tolist())) < 2:
        raise InputError(
            f"{config.name}: fewer than two classes have images with a patient number; nothing to learn ({left})."
            " Map the patient in the dataset TOML; --allow-leakage takes each image for a patient of its own."
        )
    return images, left


def read(
    sets: Sequence[datasets.Dataset], size: int, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Images, int]:
    """All images of some datasets at ``size`` pixels, without classes, and how many files could not be read.

    Raises InputError when none could.
    """
    pixels, shapes, sizes, digests, patients = [], [], [], [], []
    keys: list[str] = []
    names: list[str] = []
    payloads: list[Payload] = []
    total, done, unreadable = sum(len(data) for data in sets), 0, 0
    for data in sets:
        mapping = data.mapping
        tasks = (Task(record, record.key, "", None) for record in data.records())
        readers = Readers(os.cpu_count() or 1, ReaderConfig(size, mapping.dicom_keywords, DEFAULT_GATES))
        try:
            for task, outcome in readers.read(tasks):
                done += 1
                advance(done, total)
                if isinstance(outcome, ImageError):
                    unreadable += 1
                    continue
                record, _ = data.complete(task.record, outcome.header)
                patient = None if record.patient is None else f"{mapping.patient_namespace}/{record.patient}"
                for image in outcome.images or []:
                    pixels.append(image.array)
                    shapes.append((image.height, image.width))
                    sizes.append(outcome.size)
                    digests.append(outcome.sha256)
                    patients.append(patient)
                    keys.append(record.key)
                    names.append(mapping.name)
                    payloads.append(record.payload)
        finally:
            readers.stop()
    if not pixels:
        raise InputError(
            f"{', '.join(data.mapping.name for data in sets)}: none of {total} files is a radiograph"
            " that can be read; cxrsearch index lists each with its reason"
        )
    return Images(
        (),
        np.asarray(np.stack(pixels), dtype=np.uint8),
        np.array(shapes),
        np.array(sizes),
        np.full(len(keys), -1),
        patients,
        keys,
        names,
        payloads,
        digests,
    ), unreadable


def labelled(images: Images, label: str, classes: Mapping[str, Sequence[str]]) -> Images:
    """The images with their class by the field ``label``; every value of it is one where no classes are given."""
    found = [{str(value) for value in values_of(payload, label)} for payload in images.payloads]
    groups = classes or {value: [value] for value in sorted(set().union(*found))}
    numbers = [next((n for n, values in enumerate(groups.values()) if own & set(values)), -1) for own in found]
    return replace(images, classes=tuple(groups), labels=np.array(numbers, dtype=np.int64))
