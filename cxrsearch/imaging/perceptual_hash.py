"""Whether two pictures are the same radiograph, cropped and rescaled copies included.

pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the signs of the low
frequencies of the discrete cosine transform against their median. 16 x 16 frequencies: radiographs of different
patients are alike, and the usual 8 x 8 confuses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_FREQUENCIES = 16
BITS = _FREQUENCIES**2 - 1  # the mean tells nothing
# Bits in which two copies may differ. Of the half million pairs of different NIH patients in darkcovidnet one comes
# this near; of its 120 COVID-19 pictures that covid-chestxray has under the same name 79 do, most of the others being
# cropped by more or stretched (benchmarks/duplicate_threshold.py).
NEAR = 50
_SIDE = 64
# Parts of the side that a copy may have kept, tried in three places along each side.
_KEPT = (0.92, 0.84, 0.76)
_WHOLE = (1.0, 0.5, 0.5)
_CROPS = [_WHOLE] + [(k, y, x) for k in _KEPT for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
# Correlation of two pictures' details from which they are one. Of 250 NIH and RSNA radiographs, copies of half the
# size, as JPEG of quality 60 and with noise are at 0.999 and above, the nearest pair of different ones at 0.785;
# synthetic phantoms, which are all drawn alike, reach 0.994.
_SAME = 0.995
GreyImage = NDArray[np.uint8]


def hashes(pictures: Sequence[GreyImage], kept: float = 1.0, y: float = 0.5, x: float = 0.5) -> NDArray[np.float32]:
    """(N, BITS) of -1 and 1: the hash of the part of each picture, (H, W) uint8, that keeps ``kept`` of its sides and
    begins at (y, x) of the room there is."""
    from PIL import Image

    small = np.empty((len(pictures), _SIDE, _SIDE), dtype=np.float32)
    for number, picture in enumerate(pictures):
        height, width = (max(2, round(side * kept)) for side in picture.shape)
        top, left = round((picture.shape[0] - height) * y), round((picture.shape[1] - width) * x)
        part = np.ascontiguousarray(picture[top : top + height, left : left + width])
        small[number] = np.asarray(Image.fromarray(part).resize((_SIDE, _SIDE), Image.Resampling.BOX))
    basis = np.cos(np.pi / _SIDE * np.outer(np.arange(_FREQUENCIES), np.arange(_SIDE) + 0.5))  # DCT-II, unscaled
    low = (basis @ small @ basis.T).reshape(len(pictures), -1)[:, 1:]
    return np.where(low > np.median(low, axis=1, keepdims=True), 1, -1).astype(np.float32)


def every_hash(pictures: Sequence[GreyImage]) -> Iterator[NDArray[np.float32]]:
    """The hashes of the whole pictures, then those of every crop that is tried."""
    for kept, y, x in _CROPS:
        yield hashes(pictures, kept, y, x)


def crop_hashes(picture: GreyImage) -> NDArray[np.float32]:
    """(crops, BITS) of -1 and 1: every hash of one picture, that of the whole first."""
    return np.stack([crop[0] for crop in every_hash([picture])])


def detail(picture: GreyImage) -> NDArray[np.float32]:
    """(_SIDE * _SIDE,) float32 of unit length: a picture, (H, W) uint8, less its own blur."""
    from PIL import Image, ImageFilter

    small = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(_SIDE / 16))
    fine = np.asarray(small, dtype=np.float32).ravel() - np.asarray(blurred, dtype=np.float32).ravel()
    fine -= fine.mean()
    return np.asarray(fine / max(float(np.linalg.norm(fine)), 1e-6), dtype=np.float32)


def same_picture(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Whether two details are of one picture, stored at another size, in another format or with noise; not cropped."""
    return float(first @ second) >= _SAME


def bits_between(first: NDArray[np.float32], second: NDArray[np.float32]) -> int:
    """In how many of BITS two pictures, by their crop hashes, differ at least, whole or with one of them cropped."""
    alike = max(float((first @ second[0]).max()), float((second @ first[0]).max()))
    return round((BITS - alike) / 2)
