"""Pixel data of a DICOM file -> stored values, one decoder named per transfer syntax (PS3.5 A.4).

Never chosen by what happens to be installed. Left out: gdcm, which ends the process on damaged files, and
pylibjpeg-libjpeg, which is GPL. Two decoders give half a picture for half a stream, and a small header may hold a
stream of a huge picture, so the stream's own size and end are looked at before it is decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from cxrsearch.errors import ImageError, Reason

_NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
_PLUGINS = {
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
# JPEG extended (12 bits) and lossless: imagecodecs reads them bit-exactly, no plugin of pydicom does safely.
_IMAGECODECS = {"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
_RLE = "1.2.840.10008.1.2.5"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")


def check_inflation(data: bytes, limit: int, name: str) -> None:
    """Raises ImageError for a deflated file (PS3.5 A.5) that inflates to more than ``limit`` bytes.

    pydicom inflates the whole of it before anything else can be asked of the file.
    """
    if _DEFLATED not in data[132:1024]:
        return
    (length,) = struct.unpack("<I", data[140:144])  # (0002,0000): where the file meta information ends
    inflated = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        if len(inflated.decompress(data[144 + length :], limit + 1)) > limit:
            raise ImageError(Reason.TOO_LARGE, f"{name}: inflates to more than {limit // 2**20} MiB")
    except zlib.error:
        raise ImageError(Reason.TRUNCATED, f"{name}: its deflated data set is damaged") from None


def stored_values(dataset: Dataset, rows: int, columns: int, frames: int, name: str) -> Iterator[NDArray[Any]]:
    """Each frame's stored values: (H, W) integers, or (H, W) float32 on 0..1 for color, as luminance.

    Raises ImageError.
    """
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2")))
    if syntax not in _NATIVE and syntax not in _PLUGINS and syntax not in _IMAGECODECS:
        raise ImageError(Reason.UNSUPPORTED, f"{name}: transfer syntax {syntax.name} is not supported")
    try:
        if syntax not in _NATIVE and syntax != _RLE:
            for stream in generate_frames(dataset.PixelData, number_of_frames=frames):
                _check_stream(stream, rows, columns)
        for number in range(frames):
            yield _gray(dataset, _frame(dataset, syntax, number, frames, rows, columns))
    except Exception as error:  # decoders raise whatever damage makes them raise
        raise ImageError(
            Reason.TRUNCATED, f"{name}: its pixel data cannot be decoded ({syntax.name}, {type(error).__name__})"
        ) from None


def _frame(dataset: Dataset, syntax: UID, number: int, frames: int, rows: int, columns: int) -> NDArray[Any]:
    if syntax in _IMAGECODECS:
        import imagecodecs

        streams = list(generate_frames(dataset.PixelData, number_of_frames=frames))
        values: NDArray[Any] = imagecodecs.jpeg8_decode(streams[number].rstrip(b"\x00"))
        if values.shape[:2] != (rows, columns):
            raise ValueError("a frame of another size than the header says")
        signed = np.dtype(values.dtype.str.replace("u", "i"))
        return np.asarray(values.view(signed) if dataset.PixelRepresentation else values)
    values = np.asarray(pixel_array(dataset, index=number, decoding_plugin=_PLUGINS.get(syntax, "")))
    return _high_bits(dataset, values) if syntax in _NATIVE and frames == 1 else values


def _high_bits(dataset: Dataset, values: NDArray[Any]) -> NDArray[Any]:
    """PS3.5 8.1.1: the stored bits need not be the lowest. pydicom takes them for such."""
    shift = int(dataset.HighBit) + 1 - int(dataset.BitsStored)
    if shift <= 0 or dataset.BitsAllocated != 16:
        return values
    raw = np.frombuffer(dataset.PixelData, dtype="<u2", count=values.size).reshape(values.shape)
    kept = (raw >> shift) & (2 ** int(dataset.BitsStored) - 1)
    if dataset.PixelRepresentation:
        sign = 2 ** (int(dataset.BitsStored) - 1)
        return np.asarray((kept.astype(np.int32) ^ sign) - sign)
    return np.asarray(kept)


def _gray(dataset: Dataset, values: NDArray[Any]) -> NDArray[Any]:
    """Color becomes its luminance (ITU-R BT.601); gray stays as stored."""
    if str(dataset.PhotometricInterpretation) not in _COLOR and values.ndim == 2:
        return values
    if values.ndim == 2:
        values = apply_color_lut(values, dataset)
    top = 255.0 if values.dtype == np.uint8 else 65535.0
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(values[..., :3].astype(np.float32) @ weights / np.float32(top), dtype=np.float32)


def _check_stream(stream: bytes, rows: int, columns: int) -> None:
    """Raises ValueError for a compressed frame of another size than the header says, or a cut one."""
    body = stream.rstrip(b"\x00")
    if body[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SOC, then SIZ (ISO 15444-1 A.5.1)
        width, height, left, top = struct.unpack(">4I", body[8:24])
        size = (height - top, width - left)
    elif body[:2] == b"\xff\xd8":
        if not body.endswith(b"\xff\xd9"):
            raise ValueError("JPEG stream without an end")
        size = _jpeg_size(body)
    else:
        return  # a JP2 box or damage: the decoder tells
    if size != (rows, columns):
        raise ValueError("a frame of another size than the header says")


def _jpeg_size(stream: bytes) -> tuple[int, int]:
    """Rows and columns in the frame header of a JPEG (ISO 10918-1 B.2.2) or JPEG-LS stream."""
    at = 2
    while at + 9 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError("JPEG marker expected")
        marker = stream[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack(">2H", stream[at + 5 : at + 9])
            return rows, columns
        at += 1 if marker == 0xFF else 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    raise ValueError("JPEG stream without a frame")
