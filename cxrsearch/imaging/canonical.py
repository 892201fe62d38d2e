"""A radiograph -> the pixels that the encoder sees, and pictures for eyes."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.resizing import Resizing

if TYPE_CHECKING:
    from PIL.Image import Image


# The side of the square that tells whether two files are one picture, whichever encoder an index is made by.
PICTURE_SIDE = 224


def canonical(radiograph: Radiograph, size: int, resizing: Resizing = Resizing.PAD) -> NDArray[np.float32]:
    """The picture the encoder sees: (size, size) float32 in 0..1, in steps of 1/255.

    Padded, the longer side becomes ``size`` (bilinear with antialiasing), the aspect is kept, and the rest is black on
    both sides. The steps let training and indexing hold and send a picture as bytes, and lose nothing.
    """
    from PIL import Image

    if resizing is not Resizing.PAD:
        return _filling(radiograph, size, resizing)
    rows, columns = content(radiograph.width, radiograph.height, size)
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    resized = Image.fromarray(radiograph.pixels).resize(shape, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), dtype=np.float32)
    square[rows, columns] = np.rint(np.clip(np.asarray(resized), 0.0, 1.0) * 255)
    return square / np.float32(255)


def _filling(radiograph: Radiograph, size: int, resizing: Resizing) -> NDArray[np.float32]:
    """As :func:`canonical`, of a square that the radiograph fills."""
    from PIL import Image

    width, height = radiograph.width, radiograph.height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side) if resizing is Resizing.CROP else (0, 0, width, height)
    whole = Image.fromarray(radiograph.pixels)
    resized = whole.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    return np.asarray(np.rint(np.clip(np.asarray(resized), 0.0, 1.0) * 255) / np.float32(255), dtype=np.float32)


def prepared(
    radiograph: Radiograph, picture: NDArray[np.float32], size: int, resizing: Resizing = Resizing.PAD
) -> NDArray[np.float32]:
    """:func:`canonical`, where that of PICTURE_SIDE is made already (``picture``) and mostly is what is asked for."""
    return picture if (size, resizing) == (PICTURE_SIDE, Resizing.PAD) else canonical(radiograph, size, resizing)


def content(width: int, height: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of the canonical (size, size) picture that a radiograph of width x height fills."""
    scale = size / max(width, height)
    rows, columns = (min(size, max(1, round(side * scale))) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def filled(canonical: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """Of canonical pixels, (S, S), the part that a radiograph of width x height fills, as 8-bit grey."""
    return np.rint(canonical[content(width, height, len(canonical))] * 255).astype(np.uint8)


def pixel_digest(canonical: NDArray[np.float32]) -> str:
    """What two files of the same picture have in common, whatever their headers: sha256, hexadecimal."""
    return hashlib.sha256(np.rint(canonical * 255).astype(np.uint8).tobytes()).hexdigest()


def grey(radiograph: Radiograph, side: int) -> Image:
    """A picture for eyes: 8-bit grey, the longer side at most ``side`` pixels."""
    from PIL import Image

    rows, columns = content(radiograph.width, radiograph.height, min(side, max(radiograph.pixels.shape)))
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    whole = Image.fromarray((radiograph.pixels * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    return whole.resize(shape, Image.Resampling.BILINEAR, reducing_gap=1.0)  # quick: bulk indexing waits for it


def jpeg(picture: Image) -> bytes:
    """A JPEG file without metadata."""
    picture.save(stream := io.BytesIO(), "JPEG", quality=85)
    return stream.getvalue()
