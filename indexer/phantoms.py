"""A small cohort of synthetic chest phantoms: real DICOM files, a clinical table and its dataset TOML.

Nobody's image: what ``make demo`` and the tests need where no real radiograph may be shown. The anatomy
is crude (ribs, lungs, heart, spine, opacities), the files are as varied as a hospital's: MONOCHROME1
and 2, 8 and 12 bits, uncompressed, RLE and JPEG 2000, with and without a window.
"""

from __future__ import annotations

import csv
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

FINDINGS = ("No Finding", "Pneumonia", "COVID-19")
OUTCOMES = ("discharged", "icu", "died")
_DX_IMAGE = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation
_COLUMNS = ["file", "patient", "site", "finding", "outcome", "icu", "age", "sex", "study_date", "notes"]

DATASET_TOML = """\
# Made by indexer/phantoms.py; the mapping language is described in docs/reference/mapping.md.
name = "phantoms"

[images]
table = "clinical.csv"
path = "{file}"

[patient]
column = "patient"

[fields.site]
column = "site"
type = "keyword"

[fields.view]
dicom = "ViewPosition"
type = "keyword"

[fields.finding]
column = "finding"
type = "keyword"
separator = ","

[fields.outcome]
column = "outcome"
type = "keyword"
later = true

[fields.icu]
column = "icu"
type = "boolean"
later = true

[fields.age]
column = "age"
type = "integer"

[fields.sex]
column = "sex"
type = "keyword"

[fields.study_date]
column = "study_date"
type = "date"

[fields.notes]
column = "notes"
type = "text"

[privacy]
free_text = true
"""


@dataclass(frozen=True)
class _Scanner:
    """How a site writes its files."""

    site: str
    photometric: str
    bits: int
    syntaxes: tuple[UID, ...]
    window: bool


_SCANNERS = (
    _Scanner("North", "MONOCHROME1", 12, (ExplicitVRLittleEndian, RLELossless), window=True),
    _Scanner("South", "MONOCHROME2", 8, (ExplicitVRLittleEndian,), window=False),
    _Scanner("South", "MONOCHROME2", 12, (JPEG2000Lossless, ExplicitVRLittleEndian), window=True),
)


def write_cohort(folder: Path, patients: int = 90, size: int = 320, seed: int = 0) -> Path:
    """Write ``patients`` phantoms, a third of them with a follow-up, into ``folder``; the dataset TOML's path.

    size: pixels of the shorter side. The same seed writes the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        scanner = _SCANNERS[number % len(_SCANNERS)]
        finding = FINDINGS[int(rng.integers(len(FINDINGS)))]
        outcome = OUTCOMES[int(rng.choice(3, p=(0.8, 0.15, 0.05) if finding == "No Finding" else (0.5, 0.3, 0.2)))]
        patient, age, sex = f"PH{number:04d}", int(rng.integers(25, 90)), "FM"[int(rng.integers(2))]
        day = datetime.date(2020, 3, 1) + datetime.timedelta(days=int(rng.integers(300)))
        body = int(rng.integers(2**31))
        for visit in range(2 if number % 3 == 0 else 1):
            name = f"{scanner.site.lower()}/{patient}_{visit}.dcm"
            picture = draw(finding, body, visit, size)
            facts = {"patient": patient, "age": age, "sex": sex, "day": day + datetime.timedelta(days=4 * visit)}
            (folder / name).parent.mkdir(exist_ok=True)
            syntax = scanner.syntaxes[(number // len(_SCANNERS)) % len(scanner.syntaxes)]
            write_dicom(folder / name, picture, scanner.photometric, scanner.bits, syntax, scanner.window, facts)
            known = rng.random() > 0.1  # a table has gaps
            rows.append(
                {
                    "file": name,
                    "patient": patient,
                    "site": scanner.site,
                    "finding": finding,
                    "outcome": outcome if known else "",
                    "icu": ("N", "Y", "Y")[OUTCOMES.index(outcome)] if known else "",
                    "age": age,
                    "sex": sex,
                    "study_date": facts["day"],
                    "notes": _note(finding, outcome, visit),
                }
            )
    with (folder / "clinical.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "dataset.toml").write_text(DATASET_TOML, "utf-8")
    return folder / "dataset.toml"


def draw(finding: str, body: int, visit: int = 0, size: int = 320) -> NDArray[np.float32]:
    """One phantom, (1.1 * size, size) float32 in 0..1. The same ``body`` is the same patient on another day."""
    anatomy, build, day = (np.random.default_rng(seed) for seed in (body, [body, 0], [body, visit + 1]))
    height, width = round(size * 1.1), size
    tilt, shift = day.normal(0, 0.01, 2)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    x = (x + tilt * y + shift) * build.uniform(0.85, 1.15)
    y = y * build.uniform(0.9, 1.1) + build.normal(0, 0.08)
    wide, high, heart = 0.36 + anatomy.normal(0, 0.02), 0.62 + anatomy.normal(0, 0.03), 0.25 + anatomy.normal(0, 0.03)

    def ellipse(cx: float, cy: float, rx: float, ry: float, soft: float = 8.0) -> NDArray[np.float64]:
        distance = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(soft * (distance - 1.0), -30, 30))))

    body_outline = ellipse(0, 0.2, 0.92, 1.25, 14)
    # No two people are alike: without this, their copies could not be told from their likes.
    waves = zip(build.uniform(-4, 4, (8, 2)), build.uniform(0, 6.3, 8), strict=True)
    tissue = sum(np.cos(across * x + down * y + phase) for (across, down), phase in waves)
    image: NDArray[np.float64] = body_outline * (0.72 + 0.07 * tissue)
    lungs = np.maximum(ellipse(-0.42, -0.05, wide, high), ellipse(0.42, -0.05, wide, high))
    image -= 0.52 * lungs
    ribs = np.sin(26 * (y + 0.35 * x**2) + anatomy.uniform(0, 6)) > 0.55
    image += 0.07 * lungs * ribs
    image += 0.35 * ellipse(0.12, 0.35, heart + 0.06, heart + 0.08, 10)
    image += 0.22 * np.exp(-((x / 0.07) ** 2))
    count = {"No Finding": 0, "Pneumonia": 1, "COVID-19": 5}[finding]
    for _ in range(count):
        side = anatomy.choice((-1, 1))
        reach = 0.5 if finding == "COVID-19" else 0.38
        spot = (side * (reach + anatomy.normal(0, 0.06)), anatomy.uniform(-0.1, 0.4))
        radius = 0.13 if finding == "COVID-19" else 0.24
        image += (0.28 + 0.06 * visit) * lungs * ellipse(*spot, radius, radius * 1.2, 4)
    image += day.normal(0, 0.012, image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def write_dicom(
    path: Path,
    picture: NDArray[np.float32],
    photometric: str = "MONOCHROME2",
    bits: int = 12,
    syntax: UID = ExplicitVRLittleEndian,
    window: bool = False,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a picture, (H, W) in 0..1, as a digital X-ray (PS3.3 A.26).

    facts: ``patient``, ``age``, ``sex`` and ``day`` for the header, all optional.
    """
    facts = facts or {}
    top = 2**bits - 1
    stored = np.rint(picture * top * (0.8 if window else 1.0)).astype(np.uint16 if bits > 8 else np.uint8)
    if photometric == "MONOCHROME1":
        stored = top - stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_DX_IMAGE)
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(path.name, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = UID(_DX_IMAGE), meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID = generate_uid(entropy_srcs=[path.stem, "study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[path.stem, "series"])
    image.Modality, image.BodyPartExamined, image.ViewPosition = "DX", "CHEST", "PA"
    image.PatientID, image.PatientName = str(facts.get("patient", "PH")), "Phantom^Chest"
    image.PatientSex, image.PatientAge = str(facts.get("sex", "")), f"{int(facts.get('age', 0)):03d}Y"
    image.StudyDate = facts["day"].strftime("%Y%m%d") if "day" in facts else ""
    image.Rows, image.Columns = stored.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, photometric
    image.BitsAllocated = 16 if bits > 8 else 8
    image.BitsStored, image.HighBit, image.PixelRepresentation = bits, bits - 1, 0
    image.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    if window:
        low, high = (round(top * 0.2), top) if photometric == "MONOCHROME1" else (0, round(top * 0.8))
        image.WindowCenter, image.WindowWidth = str((low + high + 1) // 2), str(high - low + 1)
    image.PixelData = stored.tobytes()
    if syntax != ExplicitVRLittleEndian:
        plugin = "pydicom" if syntax == RLELossless else "pylibjpeg"
        image.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)  # the same bytes every time
    image.save_as(path, enforce_file_format=True)


def _note(finding: str, outcome: str, visit: int) -> str:
    radiograph = {
        "No Finding": "Lungs are clear.",
        "Pneumonia": "Focal consolidation in one lower zone.",
        "COVID-19": "Bilateral patchy peripheral opacities.",
    }
    course = {
        "discharged": "Managed on the ward.",
        "icu": "Intubated in the ICU.",
        "died": "Intubated, died in hospital.",
    }
    return f"{'Follow-up. ' if visit else ''}{radiograph[finding]} {course[outcome]}"
