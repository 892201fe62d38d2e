"""The images of a configuration, in memory, with what learning and judging need to know of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cxrsearch.clinical.fields import Payload, values_of
from cxrsearch.errors import ImageError, InputError
from cxrsearch.imaging.radiograph import DEFAULT_GATES
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.text import nearest
from indexer import dataset as datasets
from indexer.readers import Outcome, ReaderConfig, Readers, Task
from indexer.record import Record
from trainer.config import Config, TrainingDataset
from trainer.data import left_out
from trainer.data.images import Images
from trainer.data.patients import near_duplicates, patient_groups

# Values of the label that a message names.
_SHOWN = 6

LEAKAGE = "images without a patient number were taken as patients of their own (--allow-leakage)"


@dataclass(frozen=True)
class LeftOut:
    """What a configuration's datasets have and learning does not get, in numbers of images."""

    unreadable: int = 0
    unlabelled: int = 0
    no_patient: int = 0
    listed: int = 0

    def __str__(self) -> str:
        words = {
            "cannot be read": self.unreadable,
            "without a class": self.unlabelled,
            "without a patient number": self.no_patient,
            "on a list of what to leave out": self.listed,
        }
        return ", ".join(f"{number} {what}" for what, number in words.items() if number)


def load(
    config: Config, allow_leakage: bool = False, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Images, LeftOut]:
    """Every image of the configuration that can be read and learnt from.

    An image without a patient number gets its patient from its near duplicates (``trainer/data/patients.py``); one that
    has none, and a class, could be in training and in test at once, and is left out, unless its dataset is never judged
    on. With ``allow_leakage`` it stays, as if its patient had no other image.

    advance: told how many of how many files are done. Raises InputError when fewer than two classes are left.
    """
    sets = datasets_of(config)
    listed = left_out.listed(config, sets)
    found, unreadable = read(sets, config.network.image_size, advance)
    described = {data.mapping.name: source for data, source in zip(sets, config.data, strict=True)}
    sources = [described[name].source or name for name in found.datasets]
    only_learnt = np.array([not described[name].judged for name in found.datasets], dtype=bool)
    found = replace(found, sources=sources, only_learnt=only_learnt)
    images = found_in_classes(found, config.label, config.classes, described)
    is_listed = np.array([image in listed for image in zip(images.datasets, images.keys, strict=True)], dtype=bool)
    images = images.part(~is_listed)
    _check_classes(config, images)
    groups = patient_groups(images, near_duplicates(images))
    images = replace(images, patients=groups)
    taught = np.array([described[name].labelled for name in images.datasets], dtype=bool)
    lost = images.judgeable & np.array([patient is None for patient in images.patients], dtype=bool)
    left = LeftOut(unreadable, int((taught & ~images.labelled).sum()), listed=int(is_listed.sum()))
    if not allow_leakage:
        images, left = images.part(~lost), replace(left, no_patient=int(lost.sum()))
    if sum(((images.findings == 1).sum(axis=0) > 0).tolist()) < 2:
        raise InputError(
            f"{config.name}: fewer than two classes have images with a patient number; nothing to learn ({left})."
            " Map the patient in the dataset TOML; --allow-leakage takes each image for a patient of its own."
        )
    return images, left


def _check_classes(config: Config, images: Images) -> None:
    """Raises InputError where fewer than two classes have an image, whoever's it is."""
    found = [name for name, seen in zip(images.classes, (images.findings == 1).any(axis=0), strict=True) if seen]
    if len(found) > 1:
        return
    fields = sorted(set().union(*images.payloads))
    values = sorted({str(value) for payload in images.payloads for value in values_of(payload, config.label)})
    what = f"every image is in one class, {found[0]!r}" if found else "no image has a value that is of a class"
    if values:
        more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
        why = f"The label, field {config.label!r}, has the values {', '.join(map(repr, values[:_SHOWN]))}{more}"
    else:
        why = f"No image has a value in the label, field {config.label!r}.{nearest(config.label, fields)}"
        why += f" The fields are {', '.join(fields) or 'none'}"
    raise InputError(f"{config.name}: {what}; nothing to learn.\n  {why}")


def datasets_of(config: Config) -> list[datasets.Dataset]:
    """Raises InputError, where two have one name too: images are known by the name of their dataset."""
    sets = [datasets.load(one.mapping, None if one.root is None else Path(one.root)) for one in config.data]
    (name, times), *_ = Counter(data.mapping.name for data in sets).most_common(1)
    if times > 1:
        raise InputError(
            f"{config.name}: {times} of [[data]] are of a dataset {name!r}; each needs a name of its own: copy the"
            " mapping, with another name in it (and one patient namespace in both, where patients are shared)"
        )
    return sets


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
    frames: list[int] = []
    total, done, unreadable = sum(len(data) for data in sets), 0, 0
    for data in sets:
        mapping = data.mapping
        for task, outcome in read_files(data, data.records(), size):
            done += 1
            advance(done, total)
            if isinstance(outcome, ImageError):
                unreadable += 1
                continue
            record, _ = data.complete(task.record, outcome.header)
            patient = None if record.patient is None else f"{mapping.patient_namespace}/{record.patient}"
            for frame, image in enumerate(outcome.images or []):
                pixels.append(image.array)
                shapes.append((image.height, image.width))
                sizes.append(outcome.size)
                digests.append(outcome.sha256)
                patients.append(patient)
                keys.append(record.key)
                names.append(mapping.name)
                payloads.append(record.payload)
                frames.append(frame)
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
        np.zeros((len(keys), 0), dtype=np.int8),
        patients,
        keys,
        names,
        names,
        payloads,
        digests,
        np.zeros(len(keys), dtype=bool),
        np.array(frames, dtype=np.int64),
    ), unreadable


def read_files(
    data: datasets.Dataset, records: Iterable[Record], size: int, resizing: Resizing = Resizing.PAD
) -> Iterator[tuple[Task, Outcome]]:
    """What comes of reading the files of some records of a dataset, in their order: (size, size) uint8 pixels."""
    config = ReaderConfig(size, data.mapping.dicom_keywords, DEFAULT_GATES, resizing=resizing)
    readers = Readers(os.cpu_count() or 1, config)
    try:
        yield from readers.read(Task(record, record.key, "", None) for record in records)
    finally:
        readers.stop()


def found_in_classes(
    images: Images,
    label: str,
    classes: Mapping[str, Sequence[str]],
    described: Mapping[str, TrainingDataset] = MappingProxyType({}),
) -> Images:
    """The images with what is known of their classes, by the field ``label``.

    classes: the values of the field that put an image in a class; without any, every value is a class. A dataset knows
    of the classes that its description lists, else of those that any of its images is in; of these, an image that has
    a value of the field is in those its values say, and in no other that these values do not leave open. Raises
    InputError for a class that is unknown.
    """
    values = [{str(value) for value in values_of(payload, label)} for payload in images.payloads]
    groups = classes or {value: [value] for value in sorted(set().union(*values))}
    names = tuple(groups)
    present = np.array([[bool(own & set(group)) for group in groups.values()] for own in values], dtype=bool)
    present = present.reshape(len(images), len(names))
    findings = np.full(present.shape, -1, dtype=np.int8)
    datasets = np.array(images.datasets)
    has_value = np.array([bool(own) for own in values])
    for name in sorted(set(images.datasets)):
        description = described.get(name, TrainingDataset(mapping=name))
        _check_words(name, description, names)
        mine = datasets == name
        known = np.isin(names, description.knows) if description.knows else present[mine].any(axis=0)
        informed = mine & (has_value if description.knows else present.any(axis=1))
        if description.labelled:
            findings[np.ix_(informed, known)] = present[np.ix_(informed, known)]
        for image in np.flatnonzero(informed):
            if values[image] <= description.leaves_open.keys():  # and no value beside them says more
                opened = [word for value in values[image] for word in description.leaves_open[value]]
                findings[image, np.isin(names, opened) & ~present[image]] = -1
    return replace(images, classes=names, findings=findings)


def _check_words(name: str, description: TrainingDataset, classes: Sequence[str]) -> None:
    """Raises InputError for a class that is none, in what is said of a dataset."""
    said = {"knows": description.knows}
    said |= {f"leaves_open of {value!r} has": opened for value, opened in description.leaves_open.items()}
    for what, words in said.items():
        for word in words:
            if word not in classes:
                raise InputError(f"{name}: {what} {word!r}, which is no class.{nearest(word, classes)}")
