"""Pixel data of a DICOM file -> stored values, one decoder named per transfer syntax (PS3.5 A.4).

Never chosen by what happens to be installed. Left out: gdcm, which ends the process on damaged files, and
pylibjpeg-libjpeg, which is GPL. One order for every syntax: the stream's own description (codestream.py), samples of
the container, stored bits and their sign (PS3.5 8.1.1), luminance of color (PS3.3 C.7.6.3.1.2).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.codestream import Codestream, check_whole, describe
from cxrsearch.imaging.picture import decode_jpeg
from cxrsearch.imaging.tone import LUMINANCE, looked_up

_NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_PLUGINS = {
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    _JPEG_BASELINE: "pillow",
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
# JPEG baseline and extended, JPEG-LS near-lossless, JPEG 2000 and HTJ2K that may lose.
_LOSSY = {_JPEG_BASELINE, *(f"1.2.840.10008.1.2.4.{number}" for number in (51, 81, 91, 203))}
# By how much a sample of a near-lossless JPEG-LS stream may be wrong (ISO 14495-1 C.2.3).
_MAX_NEAR = 255
# Samples of a pixel, by photometric interpretation (PS3.3 C.7.6.3.1.2); others are not read.
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1} | dict.fromkeys(
    ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"), 3
)
_NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored")


def check_inflation(data: bytes, limit: int, name: str) -> None:
    """Raises ImageError for a deflated file (PS3.5 A.5) that inflates to more than ``limit`` bytes.

    pydicom inflates the whole of it before anything else can be asked of the file.
    """
    stream = io.BytesIO(data)
    try:
        read_preamble(stream, force=True)
        # As dcmread does it: where the transfer syntax stands, and what stands before it, is the file's to choose.
        syntax = _read_file_meta_info(stream).get("TransferSyntaxUID")
    except Exception:  # dcmread will say what is wrong
        return
    if syntax != DeflatedExplicitVRLittleEndian:
        return
    inflated = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        if len(inflated.decompress(data[stream.tell() :], limit + 1)) > limit:
            raise ImageError(Reason.TOO_LARGE, f"{name}: inflates to more than {limit // 2**20} MiB")
    except zlib.error:
        raise ImageError(Reason.TRUNCATED, f"{name}: its deflated data set is damaged") from None


def check_pixel_module(dataset: Dataset, name: str) -> None:
    """Sees that the Image Pixel Module (PS3.3 C.7.6.3) says how to read pixels, and fills in what only one answer fits.

    Raises ImageError, which names the attribute.
    """
    missing = [keyword for keyword in _NEEDED if dataset.get(keyword) in (None, "")]
    photometric = str(dataset.get("PhotometricInterpretation")).strip().upper()
    if dataset.file_meta.TransferSyntaxUID not in _NATIVE:
        dataset.PlanarConfiguration = 0  # a stream has an order of its own, whatever this says (PS3.5 8.2)
    if missing:
        what = f"its header has no {missing[0]}, without which its pixels cannot be read"
    elif photometric not in _SAMPLES:
        what = "its PhotometricInterpretation is not supported"
    elif int(dataset.SamplesPerPixel) != _SAMPLES[photometric]:
        what = "its SamplesPerPixel and its PhotometricInterpretation contradict each other"
    elif int(dataset.SamplesPerPixel) > 1 and dataset.get("PlanarConfiguration") is None:
        what = "its header has no PlanarConfiguration, without which its colors cannot be read"
    else:
        dataset.PhotometricInterpretation = photometric
        if dataset.get("HighBit") is None:
            dataset.HighBit = int(dataset.BitsStored) - 1
        if dataset.get("PixelRepresentation") is None:
            dataset.PixelRepresentation = 0
        return
    raise ImageError(Reason.UNSUPPORTED, f"{name}: {what}")


def stored_values(dataset: Dataset, rows: int, columns: int, frames: int, name: str) -> Iterator[NDArray[Any]]:
    """Each frame's stored values: (H, W) integers, or (H, W) float32 on 0..1 for color, as luminance.

    Raises ImageError.
    """
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if syntax not in _NATIVE and syntax not in _PLUGINS and syntax not in _IMAGECODECS:
        raise ImageError(Reason.UNSUPPORTED, f"{name}: transfer syntax {syntax.name} is not supported")
    try:
        streams: list[bytes] = []
        if syntax not in _NATIVE and syntax != _RLE:
            streams = list(generate_frames(dataset.PixelData, number_of_frames=frames))
        for number in range(frames):
            coded = _described(dataset, streams[number], rows, columns) if streams else None
            if coded is not None and syntax in _IMAGECODECS:
                samples = _jpeg(streams[number], coded)
            else:
                samples = _by_pydicom(dataset, syntax, number)
                if coded is not None and syntax == _JPEG_BASELINE:
                    check_whole(decode_jpeg(streams[number]), streams[number], coded, decode_jpeg)
            values = _stored_bits(dataset, samples, coded, syntax in _LOSSY)
            yield _luminance(dataset, values, syntax in _IMAGECODECS)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever damage makes them raise
        raise ImageError(
            Reason.TRUNCATED, f"{name}: its pixel data cannot be decoded ({syntax.name}, {type(error).__name__})"
        ) from None


def _described(dataset: Dataset, stream: bytes, rows: int, columns: int) -> Codestream:
    """What a frame's stream says of itself. Raises ValueError where that is not what the header says."""
    coded = describe(stream)
    if coded is None or coded.components != int(dataset.SamplesPerPixel):
        raise ValueError("a frame of another kind than the transfer syntax and the header say")
    if (coded.rows, coded.columns) != (rows, columns):
        raise ValueError("a frame of another size than the header says")
    return coded


def _jpeg(stream: bytes, coded: Codestream) -> NDArray[Any]:
    """The samples of a JPEG extended or lossless frame: (H, W), or (H, W, 3) for color."""
    import imagecodecs

    samples: NDArray[Any] = imagecodecs.jpeg8_decode(stream[: coded.end + 2])
    if samples.shape[:2] != (coded.rows, coded.columns):
        raise ValueError("a frame of another size than its stream says")
    check_whole(samples, stream, coded, imagecodecs.jpeg8_decode)
    return samples


def _by_pydicom(dataset: Dataset, syntax: UID, number: int) -> NDArray[Any]:
    """The samples of a frame as its container holds them: (H, W), or (H, W, 3) for color."""
    whole: dict[str, Any] = {}
    if syntax in _NATIVE or syntax == _RLE:
        # As if every bit of the container were stored: pydicom would drop the highest ones, taking them for unused.
        bits = int(dataset.BitsAllocated)
        whole = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0}
    declared = {keyword: dataset[keyword].value for keyword in whole}
    for keyword, value in whole.items():
        setattr(dataset, keyword, value)
    try:
        return np.asarray(pixel_array(dataset, index=number, decoding_plugin=_PLUGINS.get(syntax, "")))
    finally:
        for keyword, value in declared.items():
            setattr(dataset, keyword, value)


def _stored_bits(dataset: Dataset, samples: NDArray[Any], coded: Codestream | None, lossy: bool) -> NDArray[Any]:
    """PS3.5 8.1.1: the stored bits of each sample, whose highest is High Bit; overlays and junk above and below go.

    A stream that codes no more bits than are stored holds them at the bottom. The sign is that of Pixel Representation,
    by Bits Stored, or of the stream where it says that samples are signed. What a lossy stream of more bits has beyond
    the range of Bits Stored is no overlay but its error, and stays black or white.
    """
    stored = int(dataset.BitsStored)
    container = 8 * samples.dtype.itemsize
    shift = int(dataset.HighBit) + 1 - stored
    if shift < 0 or stored + shift > container or (coded is not None and coded.bits <= stored):
        shift = 0
    is_signed = bool(dataset.PixelRepresentation or (coded is not None and coded.signed))
    if lossy and coded is not None and coded.bits > stored:
        words, width = (samples.astype(np.int64) & (2**coded.bits - 1)) >> shift, coded.bits - shift
        # Negative values without sign extension look like large ones, larger than an error could make them.
        is_extended = coded.signed or not 2 ** (stored - 1) + _MAX_NEAR < words.max() < 2 ** (width - 1)
        if not is_signed:
            return np.asarray(np.clip(words, 0, 2**stored - 1), dtype=np.int32)
        if is_extended:
            limit = 2 ** (stored - 1)
            return np.asarray(np.clip(_with_sign(words, width), -limit, limit - 1), dtype=np.int32)
    kept = ((samples.astype(np.int64) & (2**container - 1)) >> shift) & (2**stored - 1)
    return np.asarray(_with_sign(kept, stored) if is_signed else kept, dtype=np.int32)


def _with_sign(words: NDArray[Any], bits: int) -> NDArray[Any]:
    """Words of so many bits as two's complement."""
    sign = 2 ** (bits - 1)
    return np.asarray((words ^ sign) - sign)


def _luminance(dataset: Dataset, values: NDArray[Any], raw: bool) -> NDArray[Any]:
    """Color becomes its luminance on 0..1, float32; gray stays as stored.

    raw: the decoder left components as they are coded, so that of YBR the first is the luminance already; the other
    decoders give RGB (PS3.3 C.7.6.3.1.2).
    """
    photometric = str(dataset.PhotometricInterpretation)
    if photometric.startswith("MONOCHROME"):
        return values
    top = float(2 ** int(dataset.BitsStored) - 1)
    if values.ndim == 2:
        values, top = _of_palette(dataset, values)
    if raw and photometric.startswith("YBR"):
        return np.asarray(values[..., 0] / top, dtype=np.float32)
    return np.asarray(values[..., :3].astype(np.float32) @ LUMINANCE / np.float32(top), dtype=np.float32)


def _of_palette(dataset: Dataset, values: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """(H, W, 3) red, green and blue by the palette (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6), and their largest value.

    That is what the descriptor says, as a palette may be dark, but for entries of 8 bits that are said to be of more.
    """
    segments = None
    if "RedPaletteColorLookupTableData" not in dataset:  # PS3.3 C.7.9.2
        segments = apply_color_lut(np.arange(2**16, dtype=np.uint16), dataset)
    found, bits, declared = [], 1, 1
    for number, color in enumerate(("Red", "Green", "Blue")):
        descriptor = dataset[f"{color}PaletteColorLookupTableDescriptor"].value
        if segments is None:
            data = dataset[f"{color}PaletteColorLookupTableData"].value
        else:
            descriptor, data = (0, 0, descriptor[2]), segments[..., number]
        component, needed = looked_up(descriptor, data, values, dataset.original_encoding[1] is not False)
        found.append(component)
        bits, declared = max(bits, needed), max(declared, min(int(descriptor[2]), 16))
    return np.stack(found, axis=-1), float(2 ** (8 if bits <= 8 else declared) - 1)
