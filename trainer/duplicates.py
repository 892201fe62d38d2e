"""The same radiograph twice: by perceptual hash, cropped and rescaled copies included.

pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the signs of the low
frequencies of the discrete cosine transform against their median. 16 x 16 frequencies: radiographs of different
patients are alike, and the usual 8 x 8 confuses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from trainer.images import Images

_FREQUENCIES = 16
BITS = _FREQUENCIES**2 - 1  # the mean tells nothing
# Bits in which two copies may differ. Of the half million pairs of different NIH patients in darkcovidnet one comes
# this near; of its 120 COVID-19 pictures that covid-chestxray has under the same name 79 do, most of the others being
# cropped by more or stretched (benchmarks/duplicate_threshold.py).
NEAR = 50
_SIDE = 64
# Parts of the side that a copy may have kept, tried in three places along each side.
_KEPT = (0.92, 0.84, 0.76)
_BLOCK = 2048


@dataclass(frozen=True)
class Pair:
    """Two images, by number, and in how many of ``BITS`` bits they differ."""

    first: int
    second: int
    bits: int


def near_duplicates(images: Images) -> list[Pair]:
    """Pairs of images of which one is the other, or a part of it, most alike first."""
    bits = differing_bits(images)
    first, second = np.nonzero(np.triu(bits <= NEAR, 1))
    pairs = [Pair(int(a), int(b), int(bits[a, b])) for a, b in zip(first, second, strict=True)]
    return sorted(pairs, key=lambda pair: pair.bits)


def differing_bits(images: Images) -> NDArray[np.uint8]:
    """(N, N): in how many of ``BITS`` bits two images differ at least, whole or with one of them cropped."""
    whole = _hashes(images, 1.0, 0.5, 0.5)
    least = np.full((len(images), len(images)), BITS, dtype=np.uint8)
    places = [(1.0, 0.5, 0.5)] + [(k, y, x) for k in _KEPT for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
    for kept, y, x in places:
        part = whole if kept == 1.0 else _hashes(images, kept, y, x)
        for start in range(0, len(images), _BLOCK):
            bits = (BITS - part[start : start + _BLOCK] @ whole.T) / 2
            np.minimum(least[start : start + _BLOCK], bits.astype(np.uint8), out=least[start : start + _BLOCK])
    return np.minimum(least, least.T)


def patient_groups(images: Images, pairs: Sequence[Pair]) -> list[str | None]:
    """N patients: two numbers with one picture between them are one patient, and an image without a number is
    its near duplicate's patient's; None where neither tells. ``pairs``: what ``near_duplicates`` found.

    A file name that two datasets have, and each once, counts as one picture: collections keep names when they copy,
    and a mistake only puts two patients in one group.
    """
    count, links = len(images), [(pair.first, pair.second) for pair in pairs]
    seen: dict[str, int] = {}
    for number, patient in enumerate(images.patients):
        if patient is not None:
            links.append((seen.setdefault(patient, number), number))
    stems = [PurePosixPath(key).stem for key in images.keys]
    files = list(zip(images.datasets, stems, strict=True))
    times = Counter(files)
    named: dict[str, int] = {}
    for number, file in enumerate(files):
        if times[file] == 1:
            links.append((named.setdefault(file[1], number), number))
    rows, columns = np.array(links).T
    _, groups = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count)))
    names: dict[int, str] = {}
    for number, patient in enumerate(images.patients):
        if patient is not None:
            names.setdefault(int(groups[number]), patient)
    return [names.get(int(group)) for group in groups]


def _hashes(images: Images, kept: float, y: float, x: float) -> NDArray[np.float32]:
    """(N, BITS) of -1 and 1: the hash of the part of each image that begins at (y, x) of the room there is."""
    small = np.empty((len(images), _SIDE, _SIDE), dtype=np.float32)
    for number, (rows, columns) in enumerate(images.content()):
        content = images.pixels[number][rows, columns]
        height, width = (max(2, round(side * kept)) for side in content.shape)
        top, left = round((content.shape[0] - height) * y), round((content.shape[1] - width) * x)
        part = np.ascontiguousarray(content[top : top + height, left : left + width])
        small[number] = np.asarray(Image.fromarray(part).resize((_SIDE, _SIDE), Image.Resampling.BOX))
    low = dctn(small, axes=(1, 2))[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(images), -1)[:, 1:]
    return np.where(low > np.median(low, axis=1, keepdims=True), 1, -1).astype(np.float32)
