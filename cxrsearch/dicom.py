"""The bytes of a DICOM file -> pixels on 0..1, and the header values that were asked for.

The order of the tone steps is that of PS3.3 C.11 (modality LUT, then VOI LUT or window) and
PS3.4 N.2 (presentation last). One decoder per transfer syntax is named, never chosen by what happens to
be installed; those that crash the process on damaged files (gdcm) or are GPL (libjpeg) are left out.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from cxrsearch.errors import ImageError, Reason
from cxrsearch.radiograph import check_size, stretch

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its log quotes header values too

# Transfer syntax UID (PS3.6 A) -> pydicom decoding plugin; "" for native pixel data.
_DECODERS = {
    "1.2.840.10008.1.2": "",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.2": "",
    "1.2.840.10008.1.2.5": "pydicom",
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
# JPEG extended and lossless: pydicom has no safe plugin; imagecodecs reads them bit-exactly.
_JPEG_IMAGECODECS = {"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
# A window that clips more than this part of the image hides it; the percentile window is used instead.
_MAX_SATURATED = 0.9


def decode(data: bytes, name: str, keywords: Sequence[str] = ()) -> tuple[NDArray[np.float32], Mapping[str, str]]:
    """(H, W) float32 in 0..1 and the values of ``keywords`` that are present, as text.

    Raises ImageError. No header value ever enters its message.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote header values
        return _decode(data, name, keywords)


def _decode(data: bytes, name: str, keywords: Sequence[str]) -> tuple[NDArray[np.float32], Mapping[str, str]]:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
    except Exception as error:
        raise ImageError(Reason.NOT_AN_IMAGE, f"{name}: not a readable DICOM file ({type(error).__name__})") from None
    if "SOPClassUID" not in dataset:
        raise ImageError(Reason.NOT_AN_IMAGE, f"{name}: not a readable DICOM file (no SOP class)")
    if "PixelData" not in dataset:
        raise ImageError(Reason.NO_PIXELS, f"{name}: a DICOM file without an image in it, or one cut short")
    stored = _stored_values(dataset, name)
    try:
        return _tone(dataset, stored), _header(dataset, keywords)
    except Exception as error:
        raise ImageError(
            Reason.UNSUPPORTED, f"{name}: its tone attributes cannot be applied ({type(error).__name__})"
        ) from None


def _header(dataset: Dataset, keywords: Sequence[str]) -> dict[str, str]:
    found = {}
    for keyword in keywords:
        value: Any = dataset.get(keyword)
        if value is not None and str(value) != "":
            found[keyword] = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    return found


def _stored_values(dataset: Dataset, name: str) -> NDArray[Any]:
    """Stored pixel values, (H, W) of an integer type, color turned to luminance."""
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2")))
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames") or 1)
    except Exception:
        raise ImageError(Reason.NO_PIXELS, f"{name}: DICOM without Rows and Columns") from None
    check_size(columns, rows, name)
    if frames > 1:
        raise ImageError(Reason.SEVERAL_FRAMES, f"{name}: {frames} frames; one file is one radiograph")
    try:
        if syntax in _JPEG_IMAGECODECS:
            values = _jpeg(dataset, rows, columns)
        elif syntax in _DECODERS:
            values = pixel_array(dataset, decoding_plugin=_DECODERS[syntax])
        else:
            raise ImageError(Reason.UNSUPPORTED, f"{name}: transfer syntax {syntax.name} is not supported")
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            Reason.TRUNCATED, f"{name}: its pixel data cannot be decoded ({syntax.name}, {type(error).__name__})"
        ) from None
    if values.ndim == 3:  # color: ITU-R BT.601 luminance of what pydicom has already turned to RGB
        return values[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return values


def _jpeg(dataset: Dataset, rows: int, columns: int) -> NDArray[Any]:
    import imagecodecs

    stream = b"".join(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)).rstrip(b"\x00")
    # The decoder returns half a picture for half a stream: the end marker has to be there.
    if not stream.endswith(b"\xff\xd9"):
        raise ValueError("JPEG stream without an end")
    values: NDArray[Any] = imagecodecs.jpeg8_decode(stream)
    if values.shape[:2] != (rows, columns):
        raise ValueError("JPEG frame of another size than the header says")
    if dataset.get("PixelRepresentation") == 1:
        values = values.view(values.dtype.str.replace("u", "i"))
    return values


def _tone(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.float32]:
    inside = _inside(dataset, stored)
    # PS3.3 C.11.1: Modality LUT, or rescale slope and intercept.
    if "ModalityLUTSequence" in dataset:
        values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)
    else:
        values = stored.astype(np.float32)
        slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
        if slope:
            values = values * np.float32(slope) + np.float32(intercept or 0.0)
    shown = _window(dataset, stored, values)
    if shown is None or float(np.mean((shown[inside] <= 0) | (shown[inside] >= 1))) > _MAX_SATURATED:
        shown = stretch(values, inside)
    # PS3.3 C.11.6: the presentation LUT shape, when given, decides; else the photometric interpretation.
    shape = str(dataset.get("PresentationLUTShape", ""))
    inverse = shape == "INVERSE" or (not shape and dataset.get("PhotometricInterpretation") == "MONOCHROME1")
    if inverse:
        shown = 1.0 - shown
    shown = np.where(inside, shown, np.float32(0.0)).astype(np.float32)
    return _square_pixels(dataset, shown)


def _inside(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the image is: PS3.3 C.7.5.1.1.2, Pixel Padding Value and its range limit."""
    padding = _number(dataset, "PixelPaddingValue")
    if padding is None:
        return np.ones(stored.shape, dtype=bool)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((padding, padding if limit is None else limit))
    inside = (stored < low) | (stored > high)
    return inside if inside.any() else np.ones(stored.shape, dtype=bool)


def _window(dataset: Dataset, stored: NDArray[Any], values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """PS3.3 C.11.2: the first VOI LUT, else the first window, on 0..1; None when there is neither."""
    luts = dataset.get("VOILUTSequence")
    if luts:
        entries, first, bits = (int(v) for v in luts[0].LUTDescriptor)
        table = (
            np.frombuffer(luts[0].LUTData, dtype=np.uint16)
            if isinstance(luts[0].LUTData, bytes)
            else np.array(luts[0].LUTData)
        )
        entries = min(entries or 65536, table.size)
        position = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
        return np.asarray(table[position] / np.float32(2**bits - 1), dtype=np.float32)
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None or width <= 0:
        return None
    function = str(dataset.get("VOILUTFunction", "LINEAR"))
    if function == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -50, 50))), dtype=np.float32)
    if function == "LINEAR_EXACT" or width <= 1:
        scaled = (values - center) / width + 0.5
    else:
        scaled = (values - (center - 0.5)) / (width - 1.0) + 0.5
    return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)


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
