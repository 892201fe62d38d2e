"""The bytes of a DICOM file -> radiographs on 0..1, and the header values that were asked for.

What is no chest radiograph is turned away by what the header says of itself, before its pixels are decoded.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.frame_header import frame_header
from cxrsearch.imaging.radiograph import MAX_FILE_BYTES, Gates, check_size, projection
from cxrsearch.imaging.tone import square_height, tone
from cxrsearch.imaging.transfer_syntax import check_inflation, check_pixel_module, stored_values

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its log quotes header values
# More frames than this are no set of radiographs of one sitting.
MAX_FRAMES = 8
# SOP classes that are no image, by the beginning of their UID (PS3.4 B.5).
_NOT_IMAGES = {
    "1.2.840.10008.1.3.10": (Reason.DIRECTORY, "a DICOMDIR; give it as DATASET to index the files it lists"),
    "1.2.840.10008.5.1.4.1.1.11.": (Reason.PRESENTATION_STATE, "a presentation state, not an image"),
    "1.2.840.10008.5.1.4.1.1.88.": (Reason.REPORT, "a structured report, not an image"),
    "1.2.840.10008.5.1.4.1.1.104.": (Reason.DOCUMENT, "an encapsulated document, not an image"),
}
# Modality (PS3.3 C.7.3.1.1.1), with what the standard has retired: any other text there may be a name.
_MODALITY_CODES = (
    "ANN AR ASMT AU BDUS BI BMD CAD CAPTURE CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO"
    " IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG"
    " RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP"
    " TG US VA XA XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF"
)
_MODALITIES = frozenset(_MODALITY_CODES.split())
# Spellings of a chest in Body Part Examined, which sites write as they like; checked inside the value.
_CHEST = re.compile(r"CHEST|THORA|TORAX|TÓRAX|LUNG|PULM|POUMON|RIB|CXR|HEART|BREAST_BONE", re.IGNORECASE)


@dataclass(frozen=True)
class Decoded:
    """frames: each (H, W) float32 on 0..1; header: the keywords that were asked for and are present."""

    frames: list[NDArray[np.float32]]
    header: dict[str, str]
    projection: str | None


def decode_dicom(data: bytes, name: str, keywords: Sequence[str], gates: Gates) -> Decoded:
    """The radiographs of a DICOM file: one per frame, unless it is a cine.

    Raises ImageError. No header value ever enters its message.
    """
    dataset = _dataset(data, name)
    try:
        return _decode(dataset, name, keywords, gates)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom converts values when they are asked for, and broken ones then
        what = f"{name}: its header cannot be used ({type(error).__name__})"
        raise ImageError(Reason.UNSUPPORTED, what) from None


def _dataset(data: bytes, name: str) -> Dataset:
    check_inflation(data, MAX_FILE_BYTES, name)
    try:
        return pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
    except MemoryError:
        raise
    except Exception as error:
        what = f"{name}: not a readable DICOM file ({type(error).__name__})"
        raise ImageError(Reason.NOT_AN_IMAGE, what) from None


def referenced_files(data: bytes, name: str) -> list[str]:
    """The files that a DICOMDIR lists (PS3.3 F.3.2.2, Referenced File ID), relative to its folder.

    Read as a data set: pydicom's FileSet is not for files one does not trust. Raises ImageError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _dataset(data, name)
        try:
            ids = [record.get("ReferencedFileID") for record in dataset.get("DirectoryRecordSequence") or []]
            parts = [[part] if isinstance(part, str) else list(map(str, part)) for part in ids if part]
        except MemoryError:
            raise
        except Exception as error:
            what = f"{name}: not a DICOMDIR that can be read ({type(error).__name__})"
            raise ImageError(Reason.NOT_AN_IMAGE, what) from None
    return sorted({"/".join(part) for part in parts})


def _decode(dataset: Dataset, name: str, keywords: Sequence[str], gates: Gates) -> Decoded:
    view = projection(str(dataset.get("ViewPosition") or "")) or _coded_view(dataset)
    _check_gates(dataset, view, name, gates)
    if "PixelData" not in dataset:
        raise ImageError(Reason.NO_PIXELS, f"{name}: a DICOM file without an image in it, or one cut short")
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _plain_syntax(dataset)
    check_pixel_module(dataset, name)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    if "NumberOfFrames" in dataset:
        dataset.NumberOfFrames = frames  # decoders read it too, and some files have 0 or -1
    if frames > 1:
        _check_cine(dataset, frames, name)
    headers = [frame_header(dataset, frame) for frame in range(frames)]
    # Of what is decoded, and of what it is stretched to.
    check_size(columns, sum(max(rows, square_height(header, rows)) for header in headers), name)
    stored = stored_values(dataset, rows, columns, frames, name)
    shown = [tone(header, values) for header, values in zip(headers, stored, strict=True)]
    return Decoded(shown, _header(dataset, keywords), view)


def _plain_syntax(dataset: Dataset) -> UID:
    """Of a data set without File Meta Information, as it was read: uncompressed (PS3.5 A.1, A.2, A.3)."""
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _coded_view(dataset: Dataset) -> str | None:
    """The projection by the meaning of View Code Sequence (PS3.3 C.8.11.5, PS3.16 CID 4010), such as
    "postero-anterior" or "left lateral"."""
    for item in dataset.get("ViewCodeSequence") or []:
        meaning = str(item.get("CodeMeaning") or "").lower()
        if "lateral" in meaning:
            return "lateral"
        if "anter" in meaning and "poster" in meaning:
            return "frontal"
    return None


def _check_gates(dataset: Dataset, view: str | None, name: str, gates: Gates) -> None:
    """What the header says of itself decides; what it does not say is unknown, and let in."""
    if "SOPClassUID" not in dataset and "MediaStorageSOPClassUID" not in dataset.file_meta:
        raise ImageError(Reason.NOT_AN_IMAGE, f"{name}: not a readable DICOM file (no SOP class)")
    kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID"))
    for beginning, (reason, what) in _NOT_IMAGES.items():
        if kind.startswith(beginning):
            raise ImageError(reason, f"{name}: {what}")
    modality = str(dataset.get("Modality") or "")
    if gates.modalities is not None and modality and modality not in gates.modalities:
        wanted = " or ".join(sorted(gates.modalities))
        what = f"modality {modality}, not {wanted}" if modality in _MODALITIES else f"another modality than {wanted}"
        raise ImageError(Reason.MODALITY, f"{name}: {what}; see --modality")
    part = str(dataset.get("BodyPartExamined") or "")
    if not gates.any_body_part and part and not _CHEST.search(part):
        raise ImageError(Reason.BODY_PART, f"{name}: another body part than the chest; see --any-body-part")
    if gates.frontal_only and view == "lateral":
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
