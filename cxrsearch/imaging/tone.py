"""Stored values -> grey on 0..1, in the order of PS3.3 C.11 (modality LUT, then VOI LUT or window) and PS3.4 N.2
(presentation last)."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # 0.3 s of import that a PNG does not need
    from pydicom.dataset import Dataset

# Pixels darker than this part and brighter than its complement are clipped when no window is given.
TONE_PERCENTILES = (0.5, 99.5)


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


def tone(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.float32]:
    """Stored values -> (H, W) float32 on 0..1, bright bone on dark air."""
    if stored.dtype == np.float32:  # color, already on 0..1
        return _square_pixels(dataset, stored)
    inside = _inside(dataset, stored)
    # PS3.3 C.11.1: Modality LUT, or rescale slope and intercept.
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    else:
        values = stored.astype(np.float32)
        slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
        if slope:
            values = values * np.float32(slope) + np.float32(intercept or 0.0)
    shown = _window(dataset, values)
    if shown is None or float(np.mean((shown[inside] <= 0) | (shown[inside] >= 1))) > _MAX_SATURATED:
        shown = stretch(values, inside)
    # PS3.3 C.11.6: the presentation LUT shape, when given, decides; else the photometric interpretation.
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape == "INVERSE" or (not shape and dataset.get("PhotometricInterpretation") == "MONOCHROME1"):
        shown = 1.0 - shown
    return _square_pixels(dataset, np.where(inside, shown, np.float32(0.0)).astype(np.float32))


def _inside(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the image is: PS3.3 C.7.5.1.1.2, Pixel Padding Value and its range limit."""
    padding = _number(dataset, "PixelPaddingValue")
    if padding is None:
        return np.ones(stored.shape, dtype=bool)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((padding, padding if limit is None else limit))
    inside = (stored < low) | (stored > high)
    return inside if inside.any() else np.ones(stored.shape, dtype=bool)


def _window(dataset: Dataset, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """PS3.3 C.11.2: the first VOI LUT, else the first window, on 0..1; None when there is neither."""
    luts = dataset.get("VOILUTSequence")
    if luts:
        return _voi_lut(luts[0], values)
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None or width <= 0:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -50, 50))), dtype=np.float32)
    if function == "LINEAR_EXACT" or width <= 1:
        scaled = (values - center) / width + 0.5
    else:
        scaled = (values - (center - 0.5)) / (width - 1.0) + 0.5
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)


def _voi_lut(item: Dataset, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.1: entries (0 means 65536), first value mapped, bits of an entry."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 65536
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, dtype=np.uint8 if len(data) < 2 * entries else "<u2")
    table = np.asarray(data, dtype=np.float32)[:entries]
    position = np.clip(np.rint(values) - first, 0, table.size - 1).astype(np.int64)
    return np.asarray(np.clip(table[position] / np.float32(2**bits - 1), 0.0, 1.0), dtype=np.float32)


def _square_pixels(dataset: Dataset, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """PS3.3 C.7.6.3.1.7: Pixel Aspect Ratio is vertical\\horizontal; rows are stretched to square pixels."""
    ratio = dataset.get("PixelAspectRatio")
    if not ratio or len(ratio) != 2 or float(ratio[1]) <= 0 or not 0.1 < float(ratio[0]) / float(ratio[1]) < 10:
        return shown
    from PIL import Image

    height = max(1, round(shown.shape[0] * float(ratio[0]) / float(ratio[1])))
    if height == shown.shape[0]:
        return shown
    resized = Image.fromarray(shown).resize((shown.shape[1], height), Image.Resampling.BILINEAR)
    return np.asarray(np.clip(np.asarray(resized), 0.0, 1.0), dtype=np.float32)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first finite number of an attribute; None when it is absent, empty or no number."""
    value: Any = dataset.get(keyword)
    if isinstance(value, MutableSequence):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
