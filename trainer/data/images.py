"""The images of a configuration, in memory, with what learning and judging need to know of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Payload, values_of
from cxrsearch.imaging.canonical import content


@dataclass(frozen=True)
class Images:
    """N radiographs.

    pixels: (N, S, S) uint8, canonical. shapes: (N, 2), height and width as read. file_bytes: (N,).
    labels: (N,), the number of the class in ``classes``, -1 where it has none.
    patients: N names, None where nothing tells whose it is. keys: N paths relative to the dataset's folder.
    datasets: N names. payloads: N, the clinical facts of each. digests: N sha256 of the files.
    """

    classes: tuple[str, ...]
    pixels: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    file_bytes: NDArray[np.int64]
    labels: NDArray[np.int64]
    patients: list[str | None]
    keys: list[str]
    datasets: list[str]
    payloads: list[Payload]
    digests: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Images:
        """The images of a mask (N,) or of numbers, in that order."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Images(
            self.classes,
            self.pixels[index],
            self.shapes[index],
            self.file_bytes[index],
            self.labels[index],
            [self.patients[i] for i in index],
            [self.keys[i] for i in index],
            [self.datasets[i] for i in index],
            [self.payloads[i] for i in index],
            [self.digests[i] for i in index],
        )

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
        return [content(width, height, self.pixels.shape[1]) for height, width in self.shapes.tolist()]
