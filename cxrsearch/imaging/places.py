"""A score as a sum over places: of an image, of a region of it, and where on the image the score comes from.

An embedding is the sum of its places (encoder.py), so the similarity of two images, their scalar product, is a sum over
the places of either of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cxrsearch.imaging.regions import INSIDE_BORDER, LUNGS, WHOLE, Region, cover


class Sized(Protocol):
    """What has the size of a picture in pixels, before it was made canonical."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass(frozen=True)
class Parts:
    """What is compared of one image, place by place: (D, h, w) float32."""

    places: NDArray[np.float32]

    @property
    def total(self) -> NDArray[np.float32]:
        """(D,) float32; of unit length where this is what was compared."""
        return np.asarray(self.places.sum(axis=(1, 2)), dtype=np.float32)


@dataclass(frozen=True)
class Shares:
    """Where a score comes from, as parts of it that add up to one; a place that counts against may make one negative.

    border: the outer sixteenth of each side and the padding; lungs: the central region in which frontal radiographs
    show the lungs, as far as it is not border; between: the rest.
    """

    border: float
    lungs: float
    between: float


def parts(places: NDArray[np.float32], image: Sized, region: Region = WHOLE) -> Parts:
    """The places of an image, or of a region of it brought to unit length. ``places``: (D, h, w), of sum length 1."""
    if region == WHOLE:
        return Parts(places)
    inside = places * cover(region, image.width, image.height, places.shape[1:])
    length = float(np.linalg.norm(inside.sum(axis=(1, 2))))
    return Parts(np.asarray(inside / max(length, 1e-12), dtype=np.float32))


def shares(values: NDArray[np.float32], image: Sized) -> Shares | None:
    """Of a map over the canonical square of an image."""
    total = float(values.sum())
    if total <= 0:
        return None
    grid: tuple[int, int] = values.shape
    inside, lungs = (
        float((values * cover(region, image.width, image.height, grid)).sum()) / total
        for region in (INSIDE_BORDER, LUNGS)
    )
    return Shares(border=1 - inside, lungs=lungs, between=inside - lungs)
