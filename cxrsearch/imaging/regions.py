"""Parts of a radiograph: its border, where the lungs are, a rectangle that was asked for; and how much of them lies in
each place of the encoder's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import UsageError
from cxrsearch.imaging.canonical import content

# The outer part of each side, of the content without padding, that counts as border: letters, edges, positioning.
BORDER = 1 / 16
# Less of a picture than this, in width or height, holds nothing that the encoder's coarse places could tell.
_SMALLEST_SIDE = 0.02


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture, in parts of its width and height: 0..1 from the left and the top."""

    left: float
    top: float
    right: float
    bottom: float


# The region in which frontal radiographs show the lungs.
LUNGS = Region(left=0.08, top=0.10, right=0.92, bottom=0.85)
INSIDE_BORDER = Region(BORDER, BORDER, 1 - BORDER, 1 - BORDER)
WHOLE = Region(0.0, 0.0, 1.0, 1.0)


def parse(text: str) -> Region:
    """``x0,y0,x1,y1`` in parts of the picture's width and height. Raises UsageError."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--region {text[:40]!r}: write it as x0,y0,x1,y1 in parts of the picture, such as 0.5,0.1,1,0.5"
        ) from None
    if not (left >= 0 and right <= 1 and top >= 0 and bottom <= 1):
        raise UsageError(f"--region {text[:40]}: every part is from 0 (left, top) to 1 (right, bottom)")
    if not (right - left >= _SMALLEST_SIDE and bottom - top >= _SMALLEST_SIDE):  # also false for NaN
        raise UsageError(
            f"--region {text[:40]}: x1 has to be right of x0 and y1 below y0, by {_SMALLEST_SIDE} at least"
        )
    return Region(left, top, right, bottom)


def cover(region: Region, width: int, height: int, grid: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) float32 in 0..1: which part of each place's area lies in the region of a picture of width x height pixels.

    Places divide the canonical square, padding included, as the encoder sees it.
    """
    rows, columns = content(width, height, size := 1024)
    vertical = _overlap(rows, size, region.top, region.bottom, grid[0])
    horizontal = _overlap(columns, size, region.left, region.right, grid[1])
    return np.outer(vertical, horizontal).astype(np.float32)


def _overlap(span: slice, size: int, low: float, high: float, places: int) -> NDArray[np.float64]:
    """Which part of each of ``places`` equal steps along one side lies between low and high of the content."""
    length = (span.stop - span.start) / size
    start, stop = span.start / size + low * length, span.start / size + high * length
    edges = np.arange(places + 1) / places
    inside = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    return np.asarray(np.clip(inside * places, 0.0, 1.0))
