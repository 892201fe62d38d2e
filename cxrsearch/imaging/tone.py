"""Stored values -> grey on 0..1, in the order of PS3.3 C.11 (modality LUT, then VOI LUT or window) and PS3.4 N.2
(presentation last)."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.imaging.frame_header import SPACINGS, FrameHeader

if TYPE_CHECKING:  # 0.3 s of import that a PNG does not need
    from pydicom.dataset import Dataset

# Pixels darker than this part and brighter than its complement are clipped when no window is given.
TONE_PERCENTILES = (0.5, 99.5)
# Of red, green and blue (ITU-R BT.601).
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def stretch(values: NDArray[np.float32], inside: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Percentiles 0.5 to 99.5 of the values (of those ``inside``) become 0..1; the rest is clipped."""
    sample = values if inside is None else values[inside]
    low, high = (float(v) for v in np.percentile(sample, TONE_PERCENTILES)) if sample.size else (0.0, 0.0)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    span = np.float32(max(high - low, 1e-30))  # a flat image stays flat
    return np.asarray(np.clip((values - np.float32(low)) / span, 0.0, 1.0), dtype=np.float32)


# A window that clips more than this part of the image hides it; the percentile window is used instead.
_MAX_SATURATED = 0.9


def tone(header: FrameHeader, stored: NDArray[Any]) -> NDArray[np.float32]:
    """Stored values -> (H, W) float32 on 0..1, bright bone on dark air."""
    if stored.dtype == np.float32:  # color, already on 0..1
        return _square_pixels(header, np.clip(stored, 0.0, 1.0))
    inside = _inside(header, stored)
    # PS3.3 C.11.1: Modality LUT, or rescale slope and intercept.
    values = stored.astype(np.float32)
    modality = _lookup_table(header, "ModalityLUTSequence")
    if modality is not None:
        values = _looked_up(header, modality, values)[0]
    else:
        slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
        if slope:
            values = values * np.float32(slope) + np.float32(intercept or 0.0)
    shown = _window(header, values)
    if shown is None or float(np.mean((shown[inside] <= 0) | (shown[inside] >= 1))) > _MAX_SATURATED:
        shown = stretch(values, inside)
    # PS3.3 C.11.6: the presentation LUT shape, when given, decides; else the photometric interpretation.
    # Files have other words there, which say nothing.
    shape = str(_first(header, "PresentationLUTShape") or "").strip().upper()
    if shape == "INVERSE" or (shape != "IDENTITY" and header.get("PhotometricInterpretation") == "MONOCHROME1"):
        shown = 1.0 - shown
    return _square_pixels(header, np.where(inside, shown, np.float32(0.0)).astype(np.float32))


def _inside(header: FrameHeader, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the image is: PS3.3 C.7.5.1.1.2, Pixel Padding Value and its range limit, read with the pixels' sign."""
    padding = _of_pixels(header, _number(header, "PixelPaddingValue"))
    if padding is None:
        return np.ones(stored.shape, dtype=bool)
    limit = _of_pixels(header, _number(header, "PixelPaddingRangeLimit"))
    low, high = sorted((padding, padding if limit is None else limit))
    inside = (stored < low) | (stored > high)
    return inside if inside.any() else np.ones(stored.shape, dtype=bool)


def _of_pixels(header: FrameHeader, value: float | None) -> float | None:
    """A value whose VR is US or SS as the pixels are signed or not (PS3.5 A): files have it in the other one too."""
    if value is not None and header.get("PixelRepresentation") and value >= 2**15:
        return value - 2**16
    if value is not None and not header.get("PixelRepresentation") and value < 0:
        return value + 2**16
    return value


def _window(header: FrameHeader, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """PS3.3 C.11.2: the first VOI LUT, else the first window, on 0..1; None when there is neither."""
    table = _lookup_table(header, "VOILUTSequence")
    if table is not None:
        found, bits = _looked_up(header, table, values)
        return np.asarray(np.clip(found / np.float32(2**bits - 1), 0.0, 1.0), dtype=np.float32)
    center, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    if center is None or width is None or width <= 0:
        return None
    function = str(_first(header, "VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -50, 50))), dtype=np.float32)
    if function == "LINEAR_EXACT" or width <= 1:
        scaled = (values - center) / width + 0.5
    else:
        scaled = (values - (center - 0.5)) / (width - 1.0) + 0.5
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)


def _lookup_table(header: FrameHeader, keyword: str) -> Dataset | None:
    """The first whole item of a sequence of lookup tables: files have empty ones."""
    whole = (item for item in header.get(keyword) or [] if item.get("LUTDescriptor") and item.get("LUTData"))
    return next(whole, None)


def _looked_up(header: FrameHeader, item: Dataset, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """Values by a Modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1), and the bits of an entry."""
    return looked_up(item.LUTDescriptor, item.LUTData, values, header.dataset.original_encoding[1] is not False)


def looked_up(
    descriptor: Sequence[int], data: bytes | Sequence[int] | NDArray[Any], values: NDArray[Any], is_little_endian: bool
) -> tuple[NDArray[np.float32], int]:
    """Values by a lookup table, and the bits of an entry.

    descriptor: entries, where 0 means 65536, first value mapped, bits of an entry. The first value has the sign with
    which the values reach the table, whatever its VR. A descriptor that claims more bits than the largest entry needs
    would make the image dark: the entries' own bits are taken then.
    """
    entries, first, bits = (int(number) for number in descriptor)
    entries = (entries & 0xFFFF) or 65536
    first &= 0xFFFF
    if first >= 2**15 and (float(values.min()) < 0 or float(values.max()) < first):
        first -= 2**16
    if isinstance(data, bytes):
        words = "<u2" if is_little_endian else ">u2"
        data = np.frombuffer(data, dtype=np.uint8 if len(data) < 2 * entries else words)
    table = (np.asarray(data, dtype=np.int64)[:entries] & 0xFFFF).astype(np.float32)
    needed = max(1, int(table.max()).bit_length())
    position = np.clip(np.rint(values) - first, 0, table.size - 1).astype(np.int64)
    return table[position], min(bits, needed) if bits <= 16 else needed


def _square_pixels(header: FrameHeader, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows stretched to square pixels: by Pixel Aspect Ratio (vertical\\horizontal, PS3.3 C.7.6.3.1.7), else by the
    spacing of rows and columns."""
    height = square_height(header, shown.shape[0])
    if height == shown.shape[0]:
        return shown
    from PIL import Image

    resized = Image.fromarray(shown).resize((shown.shape[1], height), Image.Resampling.BILINEAR)
    return np.asarray(np.clip(np.asarray(resized), 0.0, 1.0), dtype=np.float32)


def square_height(header: FrameHeader, rows: int) -> int:
    """Rows of the image once its pixels are square."""
    return max(1, round(rows * _aspect(header)))


def _aspect(header: FrameHeader) -> float:
    """Height of a pixel by its width; 1 where nothing says so, or what says so cannot be."""
    for keyword in SPACINGS:
        found = header.get(keyword)
        try:
            vertical, horizontal = (float(part) for part in found or ())
        except (TypeError, ValueError):
            continue
        if vertical > 0 and horizontal > 0 and 0.1 < vertical / horizontal < 10:
            return vertical / horizontal
    return 1.0


def _first(header: FrameHeader, keyword: str) -> Any:
    """The first value of an attribute; None when it is absent or empty."""
    value: Any = header.get(keyword)
    if isinstance(value, MutableSequence):
        return value[0] if len(value) else None
    return value


def _number(header: FrameHeader, keyword: str) -> float | None:
    """The first finite number of an attribute; None when it is absent, empty or no number."""
    try:
        number = float(_first(header, keyword))
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
