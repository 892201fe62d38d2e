"""The bytes of a DICOM file -> radiographs on 0..1, and the header values that were asked for.

What is no chest radiograph is turned away by what the header says of itself, before its pixels are decoded. The tone
steps are in the order of PS3.3 C.11 (modality LUT, then VOI LUT or window) and PS3.4 N.2 (presentation last).
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut

from cxrsearch.dicom_stream import check_inflation, stored_values
from cxrsearch.errors import ImageError, Reason
from cxrsearch.radiograph import MAX_FILE_BYTES, Gates, check_size, projection, stretch

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its log quotes header values

# More frames than this are no set of radiographs of one sitting.
MAX_FRAMES = 8
# A window that clips more than this part of the image hides it; the percentile window is used instead.
_MAX_SATURATED = 0.9
# SOP classes that are no image, by the beginning of their UID (PS3.4 B.5).
_NOT_IMAGES = {
    "1.2.840.10008.1.3.10": (Reason.DIRECTORY, "a DICOMDIR; give it as DATASET to index the files it lists"),
    "1.2.840.10008.5.1.4.1.1.11.": (Reason.PRESENTATION_STATE, "a presentation state, not an image"),
    "1.2.840.10008.5.1.4.1.1.88.": (Reason.REPORT, "a structured report, not an image"),
    "1.2.840.10008.5.1.4.1.1.104.": (Reason.DOCUMENT, "an encapsulated document, not an image"),
}
# Spellings of a chest in Body Part Examined, which sites write as they like; checked inside the value.
_CHEST = re.compile(r"CHEST|THORA|TORAX|TÓRAX|LUNG|PULM|POUMON|RIB|CXR|HEART|BREAST_BONE", re.IGNORECASE)


@dataclass(frozen=True)
class Decoded:
    """frames: each (H, W) float32 on 0..1; header: the keywords that were asked for and are present."""

    frames: list[NDArray[np.float32]]
    header: dict[str, str]
    projection: str | None


def decode(data: bytes, name: str, keywords: Sequence[str], gates: Gates) -> Decoded:
    """The radiographs of a DICOM file: one per frame, unless it is a cine.

    Raises ImageError. No header value ever enters its message.
    """
    check_inflation(data, MAX_FILE_BYTES, name)
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
    except Exception as error:
        what = f"{name}: not a readable DICOM file ({type(error).__name__})"
        raise ImageError(Reason.NOT_AN_IMAGE, what) from None
    try:
        return _decode(dataset, name, keywords, gates)
    except ImageError:
        raise
    except Exception as error:  # pydicom converts values when they are asked for, and broken ones then
        what = f"{name}: its header cannot be used ({type(error).__name__})"
        raise ImageError(Reason.UNSUPPORTED, what) from None


def _decode(dataset: Dataset, name: str, keywords: Sequence[str], gates: Gates) -> Decoded:
    seen = projection(str(dataset.get("ViewPosition") or ""))
    _check_gates(dataset, seen, name, gates)
    if "PixelData" not in dataset:
        raise ImageError(Reason.NO_PIXELS, f"{name}: a DICOM file without an image in it, or one cut short")
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    check_size(columns, rows * max(1, frames), name)
    if frames > 1:
        _check_cine(dataset, frames, name)
    shown = [_tone(dataset, stored) for stored in stored_values(dataset, rows, columns, frames, name)]
    return Decoded(shown, _header(dataset, keywords), seen)


def _check_gates(dataset: Dataset, seen: str | None, name: str, gates: Gates) -> None:
    """What the header says of itself decides; what it does not say is unknown, and let in."""
    if "SOPClassUID" not in dataset and "MediaStorageSOPClassUID" not in dataset.file_meta:
        raise ImageError(Reason.NOT_AN_IMAGE, f"{name}: not a readable DICOM file (no SOP class)")
    kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"))
    for beginning, (reason, what) in _NOT_IMAGES.items():
        if kind.startswith(beginning):
            raise ImageError(reason, f"{name}: {what}")
    modality = str(dataset.get("Modality") or "")
    if gates.modalities is not None and modality and modality not in gates.modalities:
        shown = modality if re.fullmatch("[A-Z]{2,8}", modality) else "another"
        raise ImageError(
            Reason.MODALITY, f"{name}: modality {shown}, not {' or '.join(sorted(gates.modalities))}; see --modality"
        )
    part = str(dataset.get("BodyPartExamined") or "")
    if not gates.any_body_part and part and not _CHEST.search(part):
        raise ImageError(Reason.BODY_PART, f"{name}: another body part than the chest; see --any-body-part")
    if gates.frontal_only and seen == "lateral":
        raise ImageError(Reason.VIEW, f"{name}: a lateral view; see --views")


def _check_cine(dataset: Dataset, frames: int, name: str) -> None:
    """Frames in time are a film (PS3.3 C.7.6.5); a few without time are radiographs."""
    if frames > MAX_FRAMES or any(keyword in dataset for keyword in ("FrameTime", "FrameTimeVector", "CineRate")):
        raise ImageError(Reason.CINE, f"{name}: a film of {frames} frames, not a radiograph")


def _header(dataset: Dataset, keywords: Sequence[str]) -> dict[str, str]:
    found = {}
    for keyword in keywords:
        value: Any = dataset.get(keyword)
        if value is not None and str(value) != "":
            found[keyword] = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    return found


def _tone(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.float32]:
    """Stored values -> (H, W) float32 on 0..1, bright bone on dark air."""
    if stored.dtype == np.float32:  # color, already on 0..1
        return _square_pixels(dataset, stored)
    inside = _inside(dataset, stored)
    # PS3.3 C.11.1: Modality LUT, or rescale slope and intercept.
    if dataset.get("ModalityLUTSequence"):
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
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
