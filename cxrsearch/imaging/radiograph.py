"""A radiograph and what its file says of itself; which files are let in, and how large they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import ImageError, Reason

# The largest detectors give 43 x 43 cm at 0.1 mm, 18.5 million pixels; anything far above is no radiograph.
MAX_PIXELS = 64_000_000
# 64 million 16-bit pixels, uncompressed, with room for a header.
MAX_FILE_BYTES = 160 * 1024 * 1024


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


def projection(view: str) -> str | None:
    """ "frontal" or "lateral" of what a header or a table calls the view; None when it does not say.

    View Position (PS3.3 C.8.11.5, CS) is AP, PA, LL, RL and others; sites write LATERAL, "LARGE
    LATERAL", "AP Supine", L-LAT, PROFIL.
    """
    words = view.upper().replace("_", " ").replace(".", "").replace("-", "").split()
    if {"L", "LL", "RL", "LAT", "LLAT", "RLAT", "LATERAL", "PROFIL", "PROFILE"} & set(words):
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
