"""One image of a dataset, before it is read. Apart from dataset.py, whose tables no reading process needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrsearch.clinical.fields import Payload
from cxrsearch.errors import ImageError


@dataclass(frozen=True)
class Record:
    """One image of a dataset, before it is read.

    key: its path relative to the dataset's root, with forward slashes: what its identity is made of.
    row: the table's line (2 is the first after the header), None without a table; the first of several.
    problem: why there is no image to read, else None.
    patient, study: the real identifiers; they never leave this process but as keyed pseudonyms.
    """

    key: str
    path: Path
    row: int | None
    payload: Payload
    patient: str | None
    study: str | None
    problem: ImageError | None = None
