"""Which images of a training set are one picture, and so whose the images without a patient number are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrsearch.imaging.perceptual_hash import BITS, NEAR, every_hash

if TYPE_CHECKING:
    from trainer.data.images import Images

_BLOCK = 2048


@dataclass(frozen=True)
class NearDuplicate:
    """Two images, by number, and in how many of ``BITS`` bits they differ."""

    first: int
    second: int
    bits: int


def near_duplicates(images: Images) -> list[NearDuplicate]:
    """Pairs of images of which one is the other, or a part of it, most alike first."""
    bits = differing_bits(images)
    first, second = np.nonzero(np.triu(bits <= NEAR, 1))
    pairs = [NearDuplicate(int(a), int(b), int(bits[a, b])) for a, b in zip(first, second, strict=True)]
    return sorted(pairs, key=lambda pair: pair.bits)


def differing_bits(images: Images) -> NDArray[np.uint8]:
    """(N, N): in how many of ``BITS`` bits two images differ at least, whole or with one of them cropped."""
    pictures = [picture[place] for picture, place in zip(images.pixels, images.content(), strict=True)]
    least = np.full((len(images), len(images)), BITS, dtype=np.uint8)
    whole: NDArray[np.float32] | None = None
    for part in every_hash(pictures):
        whole = part if whole is None else whole
        for start in range(0, len(images), _BLOCK):
            bits = (BITS - part[start : start + _BLOCK] @ whole.T) / 2
            np.minimum(least[start : start + _BLOCK], bits.astype(np.uint8), out=least[start : start + _BLOCK])
    return np.minimum(least, least.T)


def patient_groups(images: Images, pairs: Sequence[NearDuplicate]) -> list[str | None]:
    """N patients: two numbers with one picture between them are one patient, and an image without a number is
    its near duplicate's patient's; None where neither tells. ``pairs``: what ``near_duplicates`` found.

    A file name that two datasets have, and each once, counts as one picture: collections keep names when they copy,
    and a mistake only puts two patients in one group.
    """
    count, links = len(images), [(pair.first, pair.second) for pair in pairs]
    first_of: dict[str, int] = {}
    for number, patient in enumerate(images.patients):
        if patient is not None:
            links.append((first_of.setdefault(patient, number), number))
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
