"""A file -> :class:`Radiograph`. The one way an image is read.

Training, indexing and searching all come through :func:`read`, so an image means the same numbers everywhere. What a
file is, is read from its first bytes, never from its name.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import ImageError, Reason

if TYPE_CHECKING:
    from PIL.Image import Image

from cxrsearch.imaging.radiograph import MAX_FILE_BYTES, OPEN, Gates, Radiograph, check_size
from cxrsearch.imaging.tone import stretch


def read(path: Path, keywords: Sequence[str] = (), gates: Gates = OPEN) -> list[Radiograph]:
    """Read the radiographs of a file: one, or the frames of a DICOM file that holds several.

    ``keywords`` are DICOM keywords to bring along (``PatientID``, ...).
    Raises ImageError, with a :class:`Reason`, for every file that gives no radiograph.
    """
    return decode(read_bytes(path), path.name, keywords, gates)


def read_bytes(path: Path, name: str | None = None) -> bytes:
    """The bytes of a regular file of a plausible size. Raises ImageError, which calls it ``name``."""
    name = name or path.name
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist or is no regular file"
            raise ImageError(Reason.MISSING, f"{name}: {what}")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(Reason.EMPTY, f"{name}: the file is empty")
        if size > MAX_FILE_BYTES:
            limit = MAX_FILE_BYTES // 2**20
            raise ImageError(Reason.TOO_LARGE, f"{name}: {size / 2**20:.0f} MiB, above the {limit} MiB limit")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "not a file name"
        raise ImageError(Reason.UNREADABLE, f"{name}: cannot be read ({what})") from None


def decode(data: bytes, name: str, keywords: Sequence[str] = (), gates: Gates = OPEN) -> list[Radiograph]:
    """The radiographs in a file's bytes. ``name`` is used in messages only. Raises ImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders' warnings quote the file's own text
        return _decode(data, name, keywords, gates)


def _decode(data: bytes, name: str, keywords: Sequence[str], gates: Gates) -> list[Radiograph]:
    sha256 = digest(data)
    if data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
        from cxrsearch.imaging.dicom import decode_dicom  # 0.3 s of import that a PNG does not need

        found = decode_dicom(data, name, keywords, gates)
        images = [
            Radiograph(pixels, sha256, "dicom", frame, found.projection, found.header)
            for frame, pixels in enumerate(found.frames, start=1)
        ]
    else:
        pixels, kind = _decode_picture(data, name)
        images = [Radiograph(pixels, sha256, kind)]
    if any(image.pixels.size == 0 or float(np.ptp(image.pixels)) <= 0 for image in images):
        raise ImageError(Reason.BLANK, f"{name}: every pixel has the same value")
    return images


def digest(data: bytes) -> str:
    """What tells whether a file changed, and whether two files are one: sha256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _decode_picture(data: bytes, name: str) -> tuple[NDArray[np.float32], str]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # our own limit, checked below, has its own message
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "BMP", "WEBP"))
    except UnidentifiedImageError:
        raise ImageError(
            Reason.NOT_AN_IMAGE, f"{name}: not a DICOM, PNG, JPEG, TIFF, BMP or WebP file by its first bytes"
        ) from None
    except Exception as error:  # decoders raise whatever a broken header makes them raise
        raise ImageError(Reason.TRUNCATED, f"{name}: damaged picture ({type(error).__name__})") from None
    kind = {"MPO": "jpeg"}.get(str(picture.format), str(picture.format).lower())
    check_size(picture.width, picture.height, name)
    try:
        # What follows the first image of a camera's JPEG is a preview of it (CIPA DC-007).
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
            raise ImageError(Reason.CINE, f"{name}: an animation or several pages, not a radiograph")
        white_is_zero = _white_is_zero(picture)
        if kind == "tiff" or "exif" in picture.info:  # looking for an orientation takes as long as decoding
            picture = ImageOps.exif_transpose(picture)
        return _gray(picture, white_is_zero), kind
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(Reason.TRUNCATED, f"{name}: truncated or damaged {kind} ({type(error).__name__})") from None


def _gray(picture: Image, white_is_zero: bool) -> NDArray[np.float32]:
    # 16-bit files rarely use their whole range (12 bits in 16 is common): stretch what is there.
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float32)
        if white_is_zero:
            values = -values
        return stretch(np.nan_to_num(values, posinf=0.0, neginf=0.0))
    gray = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(np.multiply(np.asarray(gray), np.float32(1 / 255), dtype=np.float32))


def _white_is_zero(picture: Image) -> bool:
    """Of a TIFF of more than 8 bits, which Pillow leaves as stored (TIFF 6.0, PhotometricInterpretation 0)."""
    return getattr(picture, "tag_v2", {}).get(262) == 0
