"""DICOM files of one small picture, written in as many ways as scanners and archives write them."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, fields, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID

DX = UID("1.2.840.10008.5.1.4.1.1.1.1")
NATIVE = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big": "1.2.840.10008.1.2.2",
}
CODED = {
    "rle": "1.2.840.10008.1.2.5",
    "lossless": "1.2.840.10008.1.2.4.70",
    "lossless-57": "1.2.840.10008.1.2.4.57",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
    "baseline": "1.2.840.10008.1.2.4.50",
    "extended": "1.2.840.10008.1.2.4.51",
}
LOSSY = ("baseline", "extended")
_Y, _X = np.mgrid[0:1:44j, 0:1:36j]
# Smooth, so that stretched rows and lossy streams stay near it; darkest and brightest are reached.
PICTURE: NDArray[np.float64] = 0.5 + 0.5 * np.sin(3 * _X + 0.4) * np.cos(4 * _Y - 0.8)
PICTURE = (PICTURE - PICTURE.min()) / np.ptp(PICTURE)


@dataclass(frozen=True)
class Way:
    """One way to write the picture.

    bits: stored; allocated: bits of the container; shift: how far the stored bits are above the lowest.
    junk: bits above and below the stored ones are set here and there, as overlays are.
    precision: the stream of a lossless JPEG says the stored bits, not the container's.
    tone: what brings stored values to grey. vr: of the values of a lookup table. first: the first value mapped is
    written as US or SS. curve: exponent of a lookup table.
    padding: columns of it left and right, and the VR of its value.
    aspect: what says that pixels are twice as tall as wide.
    """

    syntax: str = "explicit"
    bits: int = 12
    allocated: int = 16
    signed: bool = False
    shift: int = 0
    junk: bool = False
    precision: bool = False
    photometric: str = "MONOCHROME2"
    shape: bool = False
    tone: str = "window"
    vr: str = "US"
    first: str = "US"
    overstated: bool = False
    padding: str | None = None
    aspect: str | None = None
    meta: bool = True

    @property
    def colored(self) -> bool:
        return not self.photometric.startswith("MONOCHROME")


CHOICES: dict[str, tuple[Any, ...]] = {
    "syntax": (*NATIVE, *CODED),
    "bits": (8, 10, 12, 13, 15, 16),
    "allocated": (8, 16),
    "signed": (False, True),
    "shift": (0, 1, 4, 99),
    "junk": (False, True),
    "precision": (False, True),
    "photometric": ("MONOCHROME1", "MONOCHROME2", "MONOCHROME2", "RGB", "YBR_FULL", "PALETTE COLOR"),
    "shape": (False, True),
    "tone": ("none", "window", "exact", "sigmoid", "voi", "voi", "voi", "modality", "rescale"),
    "vr": ("US", "SS", "OW"),
    "first": ("US", "SS"),
    "overstated": (False, True),
    "padding": (None, "US", "SS", "range"),
    "aspect": (None, None, "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    "meta": (True, True, True, False),
}


def sample(seed: int) -> Way:
    """A way that a file can have, by its number."""
    rng = random.Random(seed)
    return possible(Way(**{field.name: rng.choice(CHOICES[field.name]) for field in fields(Way)}))


def possible(way: Way) -> Way:
    """The nearest way that the standard, or at least some product, knows."""
    change: dict[str, Any] = {}
    if way.syntax == "baseline" or way.allocated == 8:
        change |= {"bits": 8, "allocated": 8}
    if way.syntax == "extended":
        change |= {"bits": 12, "allocated": 16}
    if way.syntax in LOSSY:  # a sign, or bits that are no picture, would not survive
        change |= {"signed": False, "shift": 0, "junk": False, "photometric": "MONOCHROME2", "padding": None}
    bits, allocated = change.get("bits", way.bits), change.get("allocated", way.allocated)
    photometric = change.get("photometric", way.photometric)
    if not photometric.startswith("MONOCHROME"):
        change |= {"signed": False, "shift": 0, "junk": False, "tone": "none", "padding": None, "shape": False}
        if photometric == "PALETTE COLOR":
            change |= {"bits": 8, "allocated": way.allocated}
            bits, allocated = 8, way.allocated
        if photometric == "YBR_FULL":
            change |= {"bits": 8, "allocated": 8}
            bits = allocated = 8
        if way.syntax in ("jpeg-2000", "extended", "baseline"):
            change |= {"photometric": "MONOCHROME2", "tone": "window"}
    shift = change.get("shift", way.shift)
    change["shift"] = min(shift, allocated - bits)
    if change["shift"] or change.get("junk", way.junk):
        change["precision"] = False
    if way.syntax not in NATIVE or way.syntax == "deflated" or way.syntax == "big":
        change["meta"] = True
    if way.padding and change.get("padding", "x") is not None:
        # Beyond the stored values of the picture; the window of a LUT with padding is no business of theirs.
        change |= {"tone": "window" if way.tone in ("none", "modality", "voi") else way.tone}
    return replace(way, **change)


def expected(way: Way) -> NDArray[np.float64]:
    """The picture as it should be shown, before pixels are made square."""
    values = np.rint(PICTURE * _top(way)) / _top(way)
    if way.colored or way.tone in ("window", "exact", "rescale"):
        return values
    if way.tone == "none":
        low, high = np.percentile(values, (0.5, 99.5))
        return np.clip((values - low) / (high - low), 0, 1)
    # MONOCHROME1 means that small is bright: what is mapped is the negative, and what is shown is its negative.
    mapped = 1 - values if negative(way) else values
    mapped = 1 / (1 + np.exp(-4 * (mapped - 0.5))) if way.tone == "sigmoid" else mapped**0.6
    return 1 - mapped if negative(way) else mapped


def negative(way: Way) -> bool:
    return way.photometric == "MONOCHROME1"


def _top(way: Way) -> int:
    """The largest grey value; with padding the highest and the lowest eighth are not used by the picture."""
    return int(2**way.bits) - 1


def columns_of_padding(way: Way) -> int:
    return 4 if way.padding else 0


def build(way: Way) -> bytes:
    """The file."""
    top, sign = _top(way), 2 ** (way.bits - 1) if way.signed else 0
    grey = np.rint(PICTURE * top).astype(np.int64)
    values = (top - grey if negative(way) else grey) - sign
    dataset = _header(way)
    if way.padding:
        # The lowest value, which the picture itself reaches at one place only.
        low = -sign
        values = np.where(values == low, low + 1, values)
        values[:, :4] = values[:, -4:] = low
        written = low % 2**16 if way.padding == "US" else low
        vr = "SS" if written < 0 or (way.padding == "SS" and written < 2**15) else "US"
        dataset.add_new("PixelPaddingValue", vr, written)
        if way.padding == "range":
            dataset.add_new("PixelPaddingRangeLimit", vr, written)
    _tone(dataset, way, sign, top)
    if way.photometric == "PALETTE COLOR":
        values = np.rint(PICTURE * 255).astype(np.int64)
    samples = values[..., None]
    if way.photometric == "RGB":
        samples = np.repeat(samples, 3, axis=2)
    elif way.photometric == "YBR_FULL":
        samples = np.dstack([values, np.full_like(values, 128), np.full_like(values, 128)])
    words = (samples & (2**way.bits - 1)) << way.shift
    if way.junk:
        free = (2**way.allocated - 1) & ~((2**way.bits - 1) << way.shift)
        words = words | (np.random.default_rng(1).integers(0, 2**16, words.shape) & free)
    words = words.astype(np.uint8 if way.allocated == 8 else np.uint16)
    if way.syntax in NATIVE:
        pixels = words.astype(words.dtype.newbyteorder(">" if way.syntax == "big" else "<")).tobytes()
        wide = way.allocated == 16 or way.syntax == "implicit" or way.vr == "OW"
        if way.syntax == "big" and way.allocated == 8 and wide:  # in words, whose bytes are swapped (PS3.5 8.1.2)
            pixels = np.frombuffer(pixels, ">u2").astype("<u2").tobytes()
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW" if wide else "OB"
    else:
        dataset.PixelData = encapsulate([_coded(way, words)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(
        stream := io.BytesIO(),
        implicit_vr=way.syntax == "implicit",
        little_endian=way.syntax != "big",
        enforce_file_format=way.meta,
    )
    return stream.getvalue()


def _header(way: Way) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DX, UID("1.2.3")
    meta.TransferSyntaxUID = UID((NATIVE | CODED)[way.syntax])
    dataset = Dataset()
    if way.meta:
        dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = DX, UID("1.2.3"), "DX"
    dataset.Rows, dataset.Columns = PICTURE.shape
    dataset.SamplesPerPixel = 3 if way.photometric in ("RGB", "YBR_FULL") else 1
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = way.photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = way.allocated, way.bits, way.bits - 1 + way.shift
    dataset.PixelRepresentation = int(way.signed)
    if way.shape:
        dataset.PresentationLUTShape = "INVERSE" if negative(way) else "IDENTITY"
    if way.aspect:
        setattr(dataset, way.aspect, ["2", "1"] if way.aspect == "PixelAspectRatio" else ["0.4", "0.2"])
    if way.photometric == "PALETTE COLOR":
        for color in ("Red", "Green", "Blue"):
            dataset.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            order = ">u2" if way.syntax == "big" else "<u2"
            table = (np.arange(256) * 257).astype(order).tobytes()
            dataset.add_new(f"{color}PaletteColorLookupTableData", "OW", table)
    return dataset


def _tone(dataset: Dataset, way: Way, sign: int, top: int) -> None:
    center, width = (top + 1) // 2 - sign, top + 1
    if way.tone == "window":
        dataset.WindowCenter, dataset.WindowWidth = str(center), str(width)
    elif way.tone == "exact":
        dataset.WindowCenter, dataset.WindowWidth = str(top / 2 - sign), str(top)
        dataset.VOILUTFunction = "LINEAR_EXACT"
    elif way.tone == "sigmoid":
        dataset.WindowCenter, dataset.WindowWidth = str(top / 2 - sign), str(top)
        dataset.VOILUTFunction = "SIGMOID"
    elif way.tone == "rescale":
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-100"
        dataset.WindowCenter, dataset.WindowWidth = str((top / 2 - sign) * 0.5 - 100), str(top * 0.5)
        dataset.VOILUTFunction = "LINEAR_EXACT"
    elif way.tone in ("voi", "modality"):
        item = Dataset()
        bits = 16 if way.bits > 8 else 8
        entries = np.rint((np.arange(top + 1) / top) ** 0.6 * (2**bits - 1)).astype(np.int64)
        if way.tone == "voi" and way.overstated and bits == 16:
            entries >>= 4  # twelve bits of data, and a descriptor that says 16
        first = -sign
        if way.first == "US" or first == 0:
            item.add_new("LUTDescriptor", "US", [(top + 1) % 65536, first % 65536, bits])
        else:
            item.add_new("LUTDescriptor", "SS", [(top + 1) % 65536, first, bits])
        if way.vr == "OW":
            order = ">u2" if way.syntax == "big" else "<u2"
            item.add_new("LUTData", "OW", entries.astype(order).tobytes())
        elif way.vr == "SS":
            item.add_new("LUTData", "SS", entries.astype(np.uint16).view(np.int16).tolist())
        else:
            item.add_new("LUTData", "US", entries.tolist())
        if way.tone == "voi":
            dataset.VOILUTSequence = Sequence([item])
        else:
            item.ModalityLUTType = "US"
            dataset.ModalityLUTSequence = Sequence([item])
            full = 2**bits
            dataset.WindowCenter, dataset.WindowWidth = str(full // 2), str(full)


def _coded(way: Way, words: NDArray[Any]) -> bytes:
    """One frame in the way's compression."""
    flat = words[..., 0] if words.shape[2] == 1 else words
    bits = way.bits if way.precision and not way.junk and not way.shift else way.allocated
    bits = way.allocated if bits <= 8 else bits  # the encoder takes 9 to 16 bits in words
    match way.syntax:
        case "rle":
            return _rle(words)
        case "lossless" | "lossless-57":
            color = {"colorspace": "RGB", "outcolorspace": "RGB"} if flat.ndim == 3 else {}
            return bytes(imagecodecs.jpeg8_encode(flat, lossless=True, predictor=1, bitspersample=bits, **color))
        case "jpeg-ls":
            return bytes(imagecodecs.jpegls_encode(flat))
        case "jpeg-2000":
            if way.signed and way.bits == way.allocated:
                flat = flat.view(np.int8 if way.allocated == 8 else np.int16)
            return bytes(imagecodecs.jpeg2k_encode(flat, codecformat="j2k", level=0, reversible=True))
        case "extended":
            return bytes(imagecodecs.jpeg8_encode(flat, level=99, bitspersample=12))
        case _:
            return bytes(imagecodecs.jpeg8_encode(flat, level=99))


def _rle(words: NDArray[Any]) -> bytes:
    """PS3.5 G: a segment for each byte of a sample, the most significant first, in runs of literals."""
    segments = []
    for sample_number in range(words.shape[2]):
        raw = words[..., sample_number].astype(words.dtype.newbyteorder(">"))
        octets = np.frombuffer(raw.tobytes(), np.uint8).reshape(words.shape[0], -1, words.dtype.itemsize)
        for place in range(words.dtype.itemsize):
            rows = (bytes(row) for row in octets[..., place])
            segment = b"".join(bytes([len(row) - 1]) + row for row in rows)
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.cumsum([64, *(len(segment) for segment in segments)])[: len(segments)]
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), offsets
    return header.tobytes() + b"".join(segments)
