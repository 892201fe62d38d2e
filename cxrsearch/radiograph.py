"""A file -> :class:`Radiograph`; a radiograph -> canonical pixels. The one way an image is read.

Training, indexing and searching all come through :func:`read` and :func:`canonical`, so an image
means the same numbers everywhere. What a file is, is read from its first bytes, never from its name.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import ImageError, Reason

if TYPE_CHECKING:
    from PIL.Image import Image

# The largest detectors give 43 x 43 cm at 0.1 mm, 18.5 million pixels; anything far above is no radiograph.
MAX_PIXELS = 64_000_000
# 64 million 16-bit pixels, uncompressed, with room for a header.
MAX_FILE_BYTES = 160 * 1024 * 1024
# Pixels darker than this part and brighter than its complement are clipped when no window is given.
TONE_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Radiograph:
    """One radiograph and what its file says of itself.

    pixels: (H, W) float32 in 0..1, bright bone on dark air (MONOCHROME1 already inverted).
    sha256: of the file's bytes, hexadecimal.
    format: "dicom", "png", "jpeg", "tiff", "bmp" or "webp".
    header: the DICOM keywords that were asked for and are present, as text; empty for other formats.
    """

    pixels: NDArray[np.float32]
    sha256: str
    format: str
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def read(path: Path, keywords: Sequence[str] = ()) -> Radiograph:
    """Read one radiograph. ``keywords`` are DICOM keywords to bring along (``PatientID``, ...).

    Raises ImageError, with a :class:`Reason`, for every file that gives no radiograph.
    """
    return decode(read_bytes(path), path.name, keywords)


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of a plausible size. Raises ImageError."""
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist or is no regular file"
            raise ImageError(Reason.MISSING, f"{path.name}: {what}")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(Reason.EMPTY, f"{path.name}: the file is empty")
        if size > MAX_FILE_BYTES:
            limit = MAX_FILE_BYTES // 2**20
            raise ImageError(Reason.TOO_LARGE, f"{path.name}: {size / 2**20:.0f} MiB, above the {limit} MiB limit")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(Reason.UNREADABLE, f"{path.name}: cannot be read ({error.strerror})") from None


def decode(data: bytes, name: str, keywords: Sequence[str] = ()) -> Radiograph:
    """The radiograph in a file's bytes. ``name`` is used in messages only. Raises ImageError."""
    header: Mapping[str, str] = {}
    if data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x02\x00"):
        from cxrsearch import dicom  # 0.3 s of import that a PNG does not need

        pixels, header = dicom.decode(data, name, keywords)
        kind = "dicom"
    else:
        pixels, kind = _decode_picture(data, name)
    if pixels.size == 0 or float(pixels.max()) <= float(pixels.min()):
        raise ImageError(Reason.BLANK, f"{name}: every pixel has the same value")
    return Radiograph(pixels, digest(data), kind, header)


def digest(data: bytes) -> str:
    """What tells whether a file changed, and whether two files are one: sha256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_size(width: int, height: int, name: str) -> None:
    """Raises ImageError for a picture too large to be a radiograph, before it is decompressed."""
    if width * height > MAX_PIXELS:
        raise ImageError(
            Reason.TOO_LARGE,
            f"{name}: {width} x {height} pixels, above the limit of {MAX_PIXELS // 10**6} million",
        )


def stretch(values: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Percentiles 0.5 to 99.5 of the values (of those ``inside``) become 0..1; the rest is clipped."""
    sample = values if inside is None else values[inside]
    low, high = (float(v) for v in np.percentile(sample, TONE_PERCENTILES)) if sample.size else (0.0, 0.0)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    span = np.float32(max(high - low, 1e-30))  # a flat image stays flat
    return np.asarray(np.clip((values - np.float32(low)) / span, 0.0, 1.0), dtype=np.float32)


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
    kind = str(picture.format).lower()
    check_size(picture.width, picture.height, name)
    if getattr(picture, "n_frames", 1) > 1:
        raise ImageError(Reason.SEVERAL_FRAMES, f"{name}: holds several pictures; one file is one radiograph")
    try:
        picture = ImageOps.exif_transpose(picture)
        return _gray(picture), kind
    except Exception as error:
        raise ImageError(Reason.TRUNCATED, f"{name}: truncated or damaged {kind} ({type(error).__name__})") from None


def _gray(picture: Image) -> NDArray[np.float32]:
    # 16-bit files rarely use their whole range (12 bits in 16 is common): stretch what is there.
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float32)
        return stretch(np.nan_to_num(values, posinf=0.0, neginf=0.0))
    return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)


def canonical(radiograph: Radiograph, size: int) -> NDArray[np.float32]:
    """The picture the encoder sees: (size, size) float32 in 0..1.

    The longer side becomes ``size`` (bilinear with antialiasing), the aspect is kept, and the
    rest is padded with black on both sides.
    """
    from PIL import Image

    scale = size / max(radiograph.width, radiograph.height)
    width = min(size, max(1, round(radiograph.width * scale)))
    height = min(size, max(1, round(radiograph.height * scale)))
    resized = Image.fromarray(radiograph.pixels).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), dtype=np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = np.clip(np.asarray(resized), 0.0, 1.0)
    return square
