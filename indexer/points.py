"""What is stored of an image: its id, and a payload of what reading its file gave and of what its row says.

The two are apart because they may come together on different machines: a file of embeddings (embeddings_file.py) holds
the first, of which nothing names a patient, and the row is read where the index is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import AFFIRMED, ROW_HASH, SYSTEM_FIELDS, Field, FieldType, Payload
from cxrsearch.clinical.identity import Identity, as_written
from cxrsearch.imaging.radiograph import projection
from cxrsearch.text import clean
from indexer import ages, negation
from indexer.dataset import Dataset
from indexer.privacy import protect
from indexer.readers import IndexedState, PreparedImage, Task
from indexer.record import Record

# Of the fields that every point has, those that reading the file always gives.
OF_EVERY_IMAGE = ("image_sha256", "picture", "width", "height")


@dataclass(frozen=True)
class EmbeddedImage:
    """An image that was embedded elsewhere. facts: of it and of its header, as they may enter an index; array: its
    embedding, (D,) float32 of unit length; thumbnail: a JPEG file, where those are wanted."""

    facts: Payload
    array: NDArray[np.float32]
    thumbnail: bytes | None


@dataclass(frozen=True)
class EmbeddedFile:
    """The images of a file that was embedded elsewhere, in the order of their frames."""

    images: list[EmbeddedImage]


class PointMaker:
    """Makes the ids and payloads of one dataset's points."""

    def __init__(self, dataset: Dataset, identity: Identity) -> None:
        self.dataset, self.mapping, self.identity = dataset, dataset.mapping, identity
        self.from_header = {name for name, mapped in self.mapping.entering.items() if mapped.dicom}
        self._numbered_by_header = {
            name
            for name, source in (("patient", self.mapping.patient), ("study", self.mapping.study))
            if source is not None and source.dicom
        }

    def id(self, record: Record, frame: int = 1) -> str:
        return self.identity.point(self.mapping.name, record.key, frame)

    def label(self, record: Record) -> str:
        if self.mapping.privacy.paths == "hashed":
            return self.identity.path(self.mapping.name, record.key)
        return clean(record.key)

    def patients(self, record: Record) -> set[str]:
        """The pseudonyms under which older versions knew the patient of a row."""
        if record.patient is None or "patient" in self._numbered_by_header:
            return set()
        return {self.identity.patient(self.mapping.patient_namespace, one) for one in as_written(record.patient)}

    def of_file(
        self, record: Record, sha256: str, image: PreparedImage | IndexedState, frame: int, frames: int
    ) -> Payload:
        """What reading a file gave. record: with what its header tells; sha256: keyed."""
        own = {name: value for name, value in record.payload.items() if name in self.from_header}
        payload: Payload = {
            "image_sha256": sha256,
            "picture": self.identity.picture(image.digest) if isinstance(image, PreparedImage) else image.picture,
            "width": image.width,
            "height": image.height,
            **self._protected(own, record),
        }
        if image.projection is not None:
            payload["projection"] = image.projection
        if frames > 1:
            payload["frame"] = frame
        numbers = self._numbers(record)
        return payload | {name: numbers[name] for name in self._numbered_by_header & numbers.keys()}

    def whole(self, task: Task, record: Record, of_file: Payload) -> Payload:
        """The payload of a point. record: as the row has it, or with what its header tells."""
        own = {name: value for name, value in record.payload.items() if name not in self.from_header}
        payload: Payload = {
            "dataset": self.mapping.name,
            "path": task.label,
            **of_file,
            ROW_HASH: task.row_hash,
            **self._protected(own, record),
        }
        payload |= {AFFIRMED + name: negation.affirmed(payload[name]) for name in self.dataset.notes if name in payload}
        if "projection" not in payload and (view := projection(str(payload.get("view", "")))) is not None:
            payload["projection"] = view
        return payload | {name: number for name, number in self._numbers(record).items() if name not in payload}

    def facts_of_a_file(self) -> Mapping[str, Field]:
        """The fields that :meth:`of_file` may give, by name."""
        names = {*OF_EVERY_IMAGE, "projection", "frame", *self._numbered_by_header, *self.from_header}
        every = {**SYSTEM_FIELDS, **self.mapping.declared}
        return {name: every[name] for name in names}

    def reading(self) -> str:
        """A token of how headers are read and what of them may enter: what is embedded by another mapping than this
        one may hold what this one keeps out."""
        dicom = {name: s.model_dump(mode="json") for name, s in self.mapping.sources.items() if s.dicom}
        privacy = self.mapping.privacy.model_dump(mode="json", exclude={"paths"})  # of no file's own
        rule = [ages.VERSION] if self.dataset.ages else []
        return self.identity.row(json.dumps([dicom, privacy, *rule], sort_keys=True, ensure_ascii=True))

    def dates_need_the_header(self) -> bool:
        """Whether dates of the table are moved by the patient number of a header, so that neither does alone."""
        dates = {n for n, f in self.mapping.declared.items() if f.type is FieldType.DATE and n not in self.from_header}
        return self.mapping.privacy.dates == "shift" and "patient" in self._numbered_by_header and bool(dates)

    def _protected(self, payload: Payload, record: Record) -> Payload:
        return protect(
            payload,
            self.mapping.declared,
            self.from_header,
            self.dataset.ages,
            self.mapping.privacy,
            self.identity,
            self.mapping.patient_namespace,
            record.patient or record.key,
        )

    def _numbers(self, record: Record) -> dict[str, str]:
        """The pseudonyms of the patient and of the study, where their numbers are known."""
        found = {}
        if record.patient is not None:
            found["patient"] = self.identity.patient(self.mapping.patient_namespace, record.patient)
        if record.study is not None:
            namespace = (self.mapping.study.namespace if self.mapping.study else None) or self.mapping.name
            found["study"] = self.identity.study(namespace, record.study)
        return found
