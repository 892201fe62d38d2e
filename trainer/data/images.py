"""The images of a configuration, in memory, with what learning and judging need to know of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Payload, values_of
from cxrsearch.errors import InputError
from cxrsearch.imaging.canonical import content
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.text import nearest


@dataclass(frozen=True)
class Images:
    """N radiographs.

    pixels: (N, S, S) uint8, what the encoder sees. shapes: (N, 2), height and width as read. file_bytes: (N,).
    findings: (N, C) int8 over ``classes``: 1 present, 0 absent, -1 not known.
    patients: N names, None where nothing tells whose it is. keys: N paths relative to the dataset's folder.
    datasets: N names. sources: N names of the hospital or collection. payloads: N, the clinical facts of each.
    digests: N sha256 of the files. only_learnt: (N,), True for images that nothing is judged on. frames: (N,) which
    image of its file each is, from 0. resizing: how ``pixels`` became square.
    """

    classes: tuple[str, ...]
    pixels: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    file_bytes: NDArray[np.int64]
    findings: NDArray[np.int8]
    patients: list[str | None]
    keys: list[str]
    datasets: list[str]
    sources: list[str]
    payloads: list[Payload]
    digests: list[str]
    only_learnt: NDArray[np.bool_]
    frames: NDArray[np.int64]
    resizing: Resizing = Resizing.PAD

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Images:
        """The images of a mask (N,) or of numbers, in that order."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Images(
            self.classes,
            self.pixels[index],
            self.shapes[index],
            self.file_bytes[index],
            self.findings[index],
            [self.patients[i] for i in index],
            [self.keys[i] for i in index],
            [self.datasets[i] for i in index],
            [self.sources[i] for i in index],
            [self.payloads[i] for i in index],
            [self.digests[i] for i in index],
            self.only_learnt[index],
            self.frames[index],
            self.resizing,
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) the number of the first class that each image is in, -1 where it is in none that is known."""
        present = self.findings == 1
        first = present.argmax(axis=1) if present.shape[1] else np.zeros(len(self), dtype=np.int64)
        return np.where(present.any(axis=1), first, -1).astype(np.int64)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) whether anything at all is known of its classes."""
        return np.asarray((self.findings >= 0).any(axis=1))

    @property
    def judgeable(self) -> NDArray[np.bool_]:
        """(N,) which images may be judged on."""
        return self.labelled & ~self.only_learnt

    @property
    def exclusive(self) -> bool:
        """Whether every labelled image is in exactly one class."""
        return bool(((self.findings[self.labelled] == 1).sum(axis=1) == 1).all())

    @property
    def owners(self) -> NDArray[np.str_]:
        """(N,) patients; an image of an unknown one is a patient of its own."""
        return np.array([p if p is not None else f"?{n}" for n, p in enumerate(self.patients)])

    @property
    def fields(self) -> list[str]:
        """Names of the fields that any image has a value of; ``dataset`` and ``source`` are such."""
        return sorted({"dataset", "source"}.union(*self.payloads))

    def check_field(self, field: str, option: str) -> None:
        """Raises InputError where no image has the field that ``option`` names."""
        if field not in self.fields:
            fields = ", ".join(self.fields)
            raise InputError(
                f"{option}: no image has a field {field!r}.{nearest(field, self.fields)} The fields are {fields}"
            )

    def values(self, field: str) -> list[str | None]:
        """N values of a field (the first, where an image has several) as text; ``dataset`` and ``source`` are such."""
        if field in ("dataset", "source"):
            return list(self.datasets if field == "dataset" else self.sources)
        found = (values_of(payload, field) for payload in self.payloads)
        return [str(values[0]) if values else None for values in found]

    def content(self) -> list[tuple[slice, slice]]:
        """Where in its pixels each image is; the rest is padding."""
        if self.resizing is not Resizing.PAD:
            return [(slice(0, self.pixels.shape[1]),) * 2] * len(self)
        return [content(width, height, self.pixels.shape[1]) for height, width in self.shapes.tolist()]
