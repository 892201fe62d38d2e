"""The bytes of a PNG, JPEG, TIFF, BMP or WebP file -> grey values on 0..1."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.codestream import MAX_COMPONENTS, check_whole, describe
from cxrsearch.imaging.radiograph import check_size
from cxrsearch.imaging.tone import LUMINANCE, stretch

Image.MAX_IMAGE_PIXELS = None  # our own limit has its own message
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_PNG, _TIFF, _BIG_TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\x00", b"MM\x00*"), (b"II+\x00", b"MM\x00+")
_PNG_COLOR = (2, 4, 6)  # RGB, gray with alpha, RGB with alpha
# Tags of TIFF 6.0 and EXIF.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 262, 274, 277
_PLANAR_CONFIGURATION, _SAMPLE_FORMAT = 284, 339
_PLANES, _SIGNED = 2, 2  # values of those two
_GRAY, _RGB = (0, 1), 2  # of the photometric interpretation
# What brings an image upright, by its EXIF orientation.
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).T,
    8: np.rot90,
}


def decode_picture(data: bytes, name: str) -> tuple[NDArray[np.float32], str]:
    """(H, W) float32 on 0..1, and "png", "jpeg", "tiff", "bmp" or "webp". Raises ImageError."""
    try:
        decoded = _deep(data, name)
        gray, turned, kind = _shallow(data, name) if decoded is None else decoded
        return np.ascontiguousarray(_TURNS.get(turned, np.asarray)(gray)), kind
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(
            Reason.NOT_AN_IMAGE, f"{name}: not a DICOM, PNG, JPEG, TIFF, BMP or WebP file by its first bytes"
        ) from None
    except Exception as error:  # decoders raise whatever damage makes them raise
        raise ImageError(Reason.TRUNCATED, f"{name}: truncated or damaged picture ({type(error).__name__})") from None


def _deep(data: bytes, name: str) -> tuple[NDArray[np.float32], int, str] | None:
    """Grey values, EXIF orientation and kind of what has more than 8 bits and color or alpha, of which Pillow keeps 8
    bits, of gray TIFFs that it does not know, and of signed ones, whose sign it ignores; None for all others."""
    white_is_zero, colored = False, True
    if data[:8] == _PNG and data[24] == 16 and data[25] in _PNG_COLOR:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            check_size(picture.width, picture.height, name)
            picture.load()  # its orientation may come after its pixels
            turned, kind = picture.getexif().get(_ORIENTATION, 1), "png"
        import imagecodecs

        values = imagecodecs.png_decode(data)
    elif data[:4] in (*_TIFF, *_BIG_TIFF):
        tags = _tags(data)
        samples, bits, photometric = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,)), tags.get(_PHOTOMETRIC)
        white_is_zero, deepest = photometric == 0, max(bits if isinstance(bits, tuple) else (bits,))
        signed = _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
        if not signed and not (deepest > 8 and white_is_zero) and (deepest != 16 or samples == 1):
            return None
        check_size(tags[_WIDTH], tags[_HEIGHT], name)
        if samples > MAX_COMPONENTS:
            raise ValueError("a TIFF of many samples a pixel")
        if tags.next:
            raise _several_pages(name)
        colored = photometric not in _GRAY
        if samples > 2 and colored and photometric != _RGB:
            what = "a TIFF with colors that are not red, green and blue"
            raise ImageError(Reason.UNSUPPORTED, f"{name}: {what}")
        import imagecodecs

        turned, kind = tags.get(_ORIENTATION, 1), "tiff"
        values = imagecodecs.tiff_decode(data, index=0)
        if values.ndim == 3 and tags.get(_PLANAR_CONFIGURATION) == _PLANES:
            values = np.moveaxis(values, 0, -1)
        if values.ndim > 3 or values.shape[:2] != (tags[_HEIGHT], tags[_WIDTH]):
            raise ValueError("a TIFF of another size than its tags say")
    else:
        return None
    if values.ndim == 3:
        colored = colored and values.shape[2] > 2
        values = values[..., :3].astype(np.float32) @ LUMINANCE if colored else values[..., 0]
    values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    return stretch(-values if white_is_zero else values), turned, kind


def _tags(data: bytes) -> Any:
    """The tags of the first page, and in ``next`` where those of the next one are."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[:4] in _BIG_TIFF else 8])
    stream = io.BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _shallow(data: bytes, name: str) -> tuple[NDArray[np.float32], int, str]:
    """As :func:`_deep`, by Pillow."""
    picture: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    kind = {"MPO": "jpeg"}.get(str(picture.format), str(picture.format).lower())
    check_size(picture.width, picture.height, name)
    coded = describe(data) if kind == "jpeg" else None
    if coded is not None and (coded.columns, coded.rows) != picture.size:
        raise ValueError("a JPEG of two sizes")
    # What follows the first image of a camera's JPEG is a preview of it (CIPA DC-007).
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise _several_pages(name)
    picture.load()  # a PNG may name its orientation after its pixels, and Pillow turns a TIFF itself
    if coded is not None:
        check_whole(np.asarray(picture), data, coded, decode_jpeg)
    return _gray(picture), picture.getexif().get(_ORIENTATION, 1), kind


def decode_jpeg(stream: bytes) -> NDArray[Any]:
    """The samples of a JPEG of 8 bits."""
    return np.asarray(Image.open(io.BytesIO(stream), formats=("JPEG",)))


def _several_pages(name: str) -> ImageError:
    return ImageError(Reason.CINE, f"{name}: an animation or several pages, not a radiograph")


def _gray(picture: Image.Image) -> NDArray[np.float32]:
    # 16-bit files rarely use their whole range (12 bits in 16 is common): stretch what is there.
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float32)
        return stretch(np.nan_to_num(values, posinf=0.0, neginf=0.0))
    gray = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(np.multiply(np.asarray(gray), np.float32(1 / 255), dtype=np.float32))
