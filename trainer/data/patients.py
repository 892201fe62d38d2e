"""Which images of a training set are one picture, and so whose the images without a patient number are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.signal import fftconvolve
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrsearch.imaging.perceptual_hash import BITS, NEAR, GreyImage, every_hash

if TYPE_CHECKING:
    from trainer.data.images import Images

_BLOCK = 2048
# Correlation of the details of two pictures, one laid into the other where it fits best, from which they are one if
# their files have one name too. Of the 120 pictures of darkcovidnet that covid-chestxray has under the same name, 39
# differ in more than NEAR bits; 36 of these reach it, and none of 800 pairs of different patients (the highest: 0.765).
_SAME_OF_NAME = 0.77
# In pixels: the side of the picture in which the other is sought, and the sides that the other is brought to.
_SIDE = 64
_SIDES = range(32, _SIDE + 1, 4)
_STRETCHED = 1.43  # how much more one side of a copy may have been brought to another length than the other


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

    A file name that two datasets have, and each once, has their pictures compared more closely, as collections keep
    names when they copy, and crop; a name alone tells nothing.
    """
    count, links = len(images), [(pair.first, pair.second) for pair in pairs]
    first_of: dict[str, int] = {}
    for number, patient in enumerate(images.patients):
        if patient is not None:
            links.append((first_of.setdefault(patient, number), number))
    links += _copies_of_one_name(images, set(links))
    if not links:
        return list(images.patients)
    rows, columns = np.array(links).T
    _, groups = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count)))
    names: dict[int, str] = {}
    for number, patient in enumerate(images.patients):
        if patient is not None:
            names.setdefault(int(groups[number]), patient)
    return [names.get(int(group)) for group in groups]


def _copies_of_one_name(images: Images, known: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of numbers of images, in two datasets under a name that each has once, that are one picture; without those
    that are known to be one patient's."""
    stems = [PurePosixPath(key).stem for key in images.keys]
    files = list(zip(images.datasets, stems, strict=True))
    times, content = Counter(files), images.content()
    named: dict[str, list[int]] = {}
    for number, file in enumerate(files):
        if times[file] == 1:
            named.setdefault(file[1], []).append(number)

    def is_copy(first: int, second: int) -> bool:
        same_number = images.patients[first] is not None and images.patients[first] == images.patients[second]
        if same_number or (first, second) in known:
            return False
        one, other = (images.pixels[number][content[number]] for number in (first, second))
        return max(_fit(one, other), _fit(other, one)) >= _SAME_OF_NAME

    return [pair for numbers in named.values() for pair in combinations(numbers, 2) if is_copy(*pair)]


def _fit(whole: GreyImage, part: GreyImage) -> float:
    """The highest correlation of the details of ``part`` with those of a place in ``whole``, at any of the sizes."""
    place = _details(whole, _SIDE, _SIDE)
    best = 0.0
    for height, width in product(_SIDES, _SIDES):
        if max(height, width) > _STRETCHED * min(height, width):
            continue
        sought = _details(part, height, width)
        energy = _sums(place**2, height, width) - _sums(place, height, width) ** 2 / sought.size
        length = np.sqrt(np.maximum(energy, 1.0) * max(float((sought**2).sum()), 1.0))
        best = max(best, float((fftconvolve(place, sought[::-1, ::-1], "valid") / length).max()))
    return best


def _sums(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """The sum over each place of (height, width) in ``values``."""
    until = np.pad(values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    found = until[height:, width:] - until[:-height, width:] - until[height:, :-width] + until[:-height, :-width]
    return np.asarray(found)


def _details(picture: GreyImage, height: int, width: int) -> NDArray[np.float32]:
    """(height, width) float32: a picture less its own blur, of mean 0."""
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(_SIDE / 16))
    fine = np.asarray(small, dtype=np.float32) - np.asarray(blurred, dtype=np.float32)
    return np.asarray(fine - fine.mean())
