"""A file -> :class:`Radiograph`; a radiograph -> canonical pixels. The one way an image is read.

Training, indexing and searching all come through :func:`read` and :func:`canonical`, so an image
means the same numbers everywhere. What a file is, is read from its first bytes, never from its name.
"""

from __future__ import annotations

import hashlib
import io
import warnings
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
class Gates:
    """Which DICOM files are let in; each has its own reason and its own switch of cxrsearch index.

    modalities: codes let in (PS3.3 C.7.3.1.1.1), None for all. What a header does not say is let in.
    """

    modalities: frozenset[str] | None = frozenset({"CR", "DX"})
    any_body_part: bool = False
    frontal_only: bool = False


DEFAULT_GATES = Gates()
# For an image that a person chose: it is what they say it is.
OPEN = Gates(modalities=None, any_body_part=True)


@dataclass(frozen=True)
class Radiograph:
    """One radiograph and what its file says of itself.

    pixels: (H, W) float32 in 0..1, bright bone on dark air (MONOCHROME1 already inverted).
    sha256: of the file's bytes, hexadecimal.
    format: "dicom", "png", "jpeg", "tiff", "bmp" or "webp".
    frame: 1, or its number in a file of several.
    projection: "frontal" or "lateral" where a DICOM header says so.
    header: the DICOM keywords that were asked for and are present, as text; empty for other formats.
    """

    pixels: NDArray[np.float32]
    sha256: str
    format: str
    frame: int = 1
    projection: str | None = None
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


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
    if data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x02\x00"):
        from cxrsearch import dicom  # 0.3 s of import that a PNG does not need

        found = dicom.decode(data, name, keywords, gates)
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


def projection(view: str) -> str | None:
    """ "frontal" or "lateral" of what a header or a table calls the view; None when it does not say.

    View Position (PS3.3 C.8.11.5, CS) is AP, PA, LL, RL and others; sites write LATERAL, "LARGE LATERAL", "AP Supine".
    """
    words = view.upper().replace("_", " ").split()
    if {"L", "LL", "RL", "LAT", "LATERAL"} & set(words):
        return "lateral"
    if {"AP", "PA", "FRONTAL"} & set(words):
        return "frontal"
    return None


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
    try:
        if getattr(picture, "n_frames", 1) > 1:
            raise ImageError(Reason.CINE, f"{name}: an animation or several pages, not a radiograph")
        if kind == "tiff" or "exif" in picture.info:  # looking for an orientation takes as long as decoding
            picture = ImageOps.exif_transpose(picture)
        return _gray(picture), kind
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(Reason.TRUNCATED, f"{name}: truncated or damaged {kind} ({type(error).__name__})") from None


def _gray(picture: Image) -> NDArray[np.float32]:
    # 16-bit files rarely use their whole range (12 bits in 16 is common): stretch what is there.
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float32)
        return stretch(np.nan_to_num(values, posinf=0.0, neginf=0.0))
    gray = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(np.multiply(np.asarray(gray), np.float32(1 / 255), dtype=np.float32))


def canonical(radiograph: Radiograph, size: int) -> NDArray[np.float32]:
    """The picture the encoder sees: (size, size) float32 in 0..1, in steps of 1/255.

    The longer side becomes ``size`` (bilinear with antialiasing), the aspect is kept, and the rest is padded with
    black on both sides. The steps let training and indexing hold and send a picture as bytes, and lose nothing.
    """
    from PIL import Image

    rows, columns = content(radiograph.width, radiograph.height, size)
    shape = (columns.stop - columns.start, rows.stop - rows.start)
    resized = Image.fromarray(radiograph.pixels).resize(shape, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), dtype=np.float32)
    square[rows, columns] = np.rint(np.clip(np.asarray(resized), 0.0, 1.0) * 255)
    return square / np.float32(255)


def content(width: int, height: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of the canonical (size, size) picture that a radiograph of width x height fills."""
    scale = size / max(width, height)
    rows, columns = (min(size, max(1, round(side * scale))) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def filled(canonical: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
    """Of canonical pixels, (S, S), the part that a radiograph of width x height fills, as 8-bit grey."""
    return np.rint(canonical[content(width, height, len(canonical))] * 255).astype(np.uint8)


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
