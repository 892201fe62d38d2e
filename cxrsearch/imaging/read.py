"""A file -> :class:`Radiograph`. The one way an image is read.

Training, indexing and searching all come through :func:`read`, so an image means the same numbers everywhere. What a
file is, is read from its first bytes, never from its name.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.radiograph import MAX_FILE_BYTES, OPEN, Gates, Radiograph


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
    if is_dicom(data):
        from cxrsearch.imaging.dicom import decode_dicom  # 0.3 s of import that a PNG does not need

        found = decode_dicom(data, name, keywords, gates)
        images = [
            Radiograph(pixels, sha256, "dicom", frame, found.projection, found.header)
            for frame, pixels in enumerate(found.frames, start=1)
        ]
    else:
        from cxrsearch.imaging.picture import decode_picture

        pixels, kind = decode_picture(data, name)
        images = [Radiograph(pixels, sha256, kind)]
    spread = [float(np.ptp(image.pixels)) if image.pixels.size else 0.0 for image in images]
    if not np.isfinite(spread).all():
        raise ImageError(Reason.TRUNCATED, f"{name}: its pixels have values that are no finite numbers")
    if min(spread) <= 0:
        raise ImageError(Reason.BLANK, f"{name}: every pixel has the same value")
    return images


def is_dicom(beginning: bytes) -> bool:
    """Whether a file that begins so, in 132 bytes, is to be read as DICOM: with a preamble, or by its first tag."""
    return beginning[128:132] == b"DICM" or beginning[:2] in (b"\x08\x00", b"\x02\x00", b"\x00\x08")


def digest(data: bytes) -> str:
    """What tells whether a file changed, and whether two files are one: sha256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
