"""Which images of a training set are one picture, and so whose the images without a patient number are."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrsearch.imaging.perceptual_hash import BITS, NEAR, GreyImage, every_hash

if TYPE_CHECKING:
    from trainer.data.images import Images

_log = logging.getLogger("cxrsearch")

_BLOCK = 2048
# Correlation of the details of two pictures, one laid into the other where it fits best, from which they are one if
# their files have one name too. Of the 120 pictures of darkcovidnet that covid-chestxray has under the same name, 39
# differ in more than NEAR bits; 36 of these reach it, and none of 800 pairs of different patients (the highest: 0.765).
_SAME_OF_NAME = 0.77
# In pixels: the side of the picture in which the other is sought, and the sides that the other is brought to.
_SIDE = 64
_SIDES = range(32, _SIDE + 1, 4)
_STRETCHED = 1.43  # how much more one side of a copy may have been brought to another length than the other
_SIZES = [size for size in product(_SIDES, _SIDES) if max(size) <= _STRETCHED * min(size)]
# Every second side is tried first. At these all 36 copies correlate by 0.66 and more, four in five strangers by less
# than this, which are not looked at further.
_FEW_SIZES = [size for size in _SIZES if not any(side % 8 for side in size)]
_MORE_SIZES = [size for size in _SIZES if size not in _FEW_SIZES]
_HOPELESS = 0.55
_MANY = 2000  # pairs of one name from which it is said how long they take
_SECONDS = 0.02  # that a pair takes, on one core


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

    def is_told(first: int, second: int) -> bool:
        same_number = images.patients[first] is not None and images.patients[first] == images.patients[second]
        return same_number or (first, second) in known

    groups = [[pair for pair in combinations(numbers, 2) if not is_told(*pair)] for numbers in named.values()]
    if (count := sum(map(len, groups))) > _MANY:
        minutes = math.ceil(count * _SECONDS / 60)
        _log.info(f"comparing {count} pairs of images of one file name in two datasets: about {minutes} min")
    found: list[tuple[int, int]] = []
    for pairs in groups:
        pictures = {number: _Picture.of(images.pixels[number][content[number]]) for number in set[int]().union(*pairs)}
        found += [(first, second) for first, second in pairs if _are_one(pictures[first], pictures[second])]
    return found


@dataclass(frozen=True)
class _Picture:
    """A picture, (H, W) uint8, and of its details at _SIDE: the Fourier transform, and the sums of them and of their
    squares over all that is above and left, (_SIDE + 1, _SIDE + 1)."""

    grey: GreyImage
    transform: NDArray[np.complex64]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, grey: GreyImage) -> _Picture:
        details = _details(grey, _SIDE, _SIDE)
        sums, squares = (
            np.pad(values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
            for values in (details, details**2)
        )
        return cls(grey, fft.rfft2(details), sums, squares)


def _are_one(one: _Picture, other: _Picture) -> bool:
    """Whether one of two pictures is the other or a part of it."""
    best = max(_fit(one, other.grey, _FEW_SIZES), _fit(other, one.grey, _FEW_SIZES))
    if not _HOPELESS <= best < _SAME_OF_NAME:
        return best >= _SAME_OF_NAME
    return max(_fit(one, other.grey, _MORE_SIZES), _fit(other, one.grey, _MORE_SIZES)) >= _SAME_OF_NAME


def _fit(whole: _Picture, part: GreyImage, sizes: Sequence[tuple[int, int]]) -> float:
    """The highest correlation of the details of ``part`` with those of a place in ``whole``, at any of the sizes."""
    sought = np.zeros((len(sizes), _SIDE, _SIDE), dtype=np.float32)
    for layer, (height, width) in zip(sought, sizes, strict=True):
        layer[:height, :width] = _details(part, height, width)
    products = fft.irfft2(whole.transform * fft.rfft2(sought).conj(), (_SIDE, _SIDE))
    best = 0.0
    for found, own, (height, width) in zip(products, (sought**2).sum(axis=(1, 2)), sizes, strict=True):
        energy = _over(whole.squares, height, width) - _over(whole.sums, height, width) ** 2 / (height * width)
        length = np.sqrt(np.maximum(energy, 1.0) * max(float(own), 1.0))
        best = max(best, float((found[: length.shape[0], : length.shape[1]] / length).max()))
    return best


def _over(until: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """The sum over each place of (height, width), from the sums over all that is above and left."""
    found = until[height:, width:] - until[:-height, width:] - until[height:, :-width] + until[:-height, :-width]
    return np.asarray(found)


def _details(picture: GreyImage, height: int, width: int) -> NDArray[np.float32]:
    """(height, width) float32: a picture less its own blur, of mean 0."""
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(_SIDE / 16))
    fine = np.asarray(small, dtype=np.float32) - np.asarray(blurred, dtype=np.float32)
    return np.asarray(fine - fine.mean())
