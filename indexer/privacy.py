"""What of a patient may enter an index: the [privacy] part of a dataset TOML, and what it does to a payload.

An allow-list, not a de-identifier: only declared fields enter at all, and of a DICOM header only what is listed here
may be declared. PS3.15 Annex E names what identifies; sex, age, size and weight are kept as its Retain Patient
Characteristics option does, dates shifted as its Retain Longitudinal Temporal Information With Modified Dates option.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cxrsearch.clinical.fields import Field, FieldType, Payload, Value
from cxrsearch.clinical.identity import Identity
from indexer.ages import capped

# DICOM keywords that tell of the image, the equipment or a characteristic, and of nobody.
_TELLS_OF_NOBODY = """
    Modality BodyPartExamined ViewPosition PatientPosition PatientOrientation Laterality ImageLaterality
    PatientSex PatientAge PatientSize PatientWeight PregnancyStatus SmokingStatus
    Manufacturer ManufacturerModelName SoftwareVersions DetectorType DetectorConfiguration PixelSpacing
    ImagerPixelSpacing PixelAspectRatio PhotometricInterpretation PresentationLUTShape PresentationIntentType
    Rows Columns BitsStored BitsAllocated HighBit PixelRepresentation SamplesPerPixel NumberOfFrames
    LossyImageCompression LossyImageCompressionRatio BurnedInAnnotation ConversionType ImageType
    KVP Exposure ExposureTime XRayTubeCurrent ExposureInuAs RelativeXRayExposure Sensitivity ExposureIndex
    TargetExposureIndex DeviationIndex DistanceSourceToDetector DistanceSourceToPatient Grid FilterType FocalSpots
    AcquisitionDeviceProcessingDescription PlateType PhosphorType SOPClassUID SpecificCharacterSet
    StudyDate SeriesDate AcquisitionDate ContentDate
"""
DECLARABLE = frozenset(_TELLS_OF_NOBODY.split())
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")


class Privacy(BaseModel):
    """The [privacy] table.

    dates: "keep", "shift" (each patient's by one keyed number of days, up to ten years back) or "year" (1 January);
        by default "shift" for those of a DICOM header and "keep" for those of a table.
    paths: "relative" to the dataset's folder, or "hashed" (a keyed token).
    free_text: let fields of type text in.
    allow_identifiers: let DICOM attributes in that identify; shown by ``cxrsearch info``.
    thumbnails: keep a small picture of each image beside the index, burnt-in letters and all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dates: Literal["keep", "shift", "year"] | None = None
    paths: Literal["relative", "hashed"] = "relative"
    free_text: bool = False
    allow_identifiers: bool = False
    thumbnails: bool = True


def identifying(keyword: str, kind: FieldType | None) -> bool:
    """Whether declaring this DICOM keyword as a field of this type needs ``allow_identifiers``."""
    return keyword not in DECLARABLE or (keyword in _DATES and kind is not FieldType.DATE)


def protect(
    payload: Payload,
    fields: Mapping[str, Field],
    from_header: Collection[str],
    ages: Mapping[str, float],
    privacy: Privacy,
    identity: Identity,
    namespace: str,
    subject: str,
) -> Payload:
    """The payload as it may enter the index: dates treated, ages above 89 made 90.

    from_header: names of the fields that come from a DICOM header. ages: how many of its units are in a year, of
    each field that says how old the patient is. subject: the patient's identifier, or the image's key where there is
    none: whose dates move together.
    """
    protected: Payload = {}
    for name, value in payload.items():
        field = fields.get(name)
        if field is not None and field.type is FieldType.DATE:
            way = privacy.dates or ("shift" if name in from_header else "keep")
            value = _dates(value, way, identity, namespace, subject)
        elif name in ages:
            value = capped(value, ages[name], field is not None and field.type is FieldType.KEYWORD)
        protected[name] = value
    return protected


def _dates(value: Value, way: str, identity: Identity, namespace: str, subject: str) -> Value:
    if isinstance(value, list):
        return [_date(str(part), way, identity, namespace, subject) for part in value]
    return _date(str(value), way, identity, namespace, subject)


def _date(value: str, way: str, identity: Identity, namespace: str, subject: str) -> str:
    match way:
        case "shift":
            return identity.shift_date(namespace, subject, value)
        case "year":
            return f"{value[:4]}-01-01"
    return value
