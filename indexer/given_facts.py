"""Facts of an image out of a file of embeddings: only what `cxrsearch embed` can have written, as a stranger's file may
hold anything."""

from __future__ import annotations

import datetime
import json
import re

from cxrsearch.clinical.fields import Field, FieldType, Payload, Scalar, Value, wrong_type
from cxrsearch.imaging.radiograph import MAX_PIXELS
from cxrsearch.text import clean, tidy
from indexer.ages import capped
from indexer.points import OF_EVERY_IMAGE, PointMaker

_LARGEST = 2**20
# What stands for a patient, a study or a digest (identity.py).
_TOKEN = re.compile(r"[A-Z2-7]{16}\Z")
_TOKENS = ("patient", "study", "image_sha256", "picture")
_TEXTS = (FieldType.KEYWORD, FieldType.TEXT)


class GivenFacts:
    """Reads the facts of one dataset's images. points: how its own are made."""

    def __init__(self, points: PointMaker) -> None:
        self._fields, self._ages = points.facts_of_a_file(), points.dataset.ages

    def read(self, text: str | None) -> Payload:
        """The facts in a JSON text. Raises ValueError, whose message completes "row 2 has ..."."""
        try:
            facts = json.loads(text or "") if len(text or "") <= _LARGEST else None
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict) or not facts.keys() >= set(OF_EVERY_IMAGE):
            raise ValueError("no facts of an image")
        if unknown := facts.keys() - self._fields.keys():
            raise ValueError(f"a fact {clean(min(unknown))[:40]!r} that is none of a header by this mapping")
        if (wrong := wrong_type(facts, self._fields)) is not None:
            raise ValueError(f"a wrong {wrong}")
        for name, value in facts.items():
            if (wrong := self._wrong(self._fields[name], value)) is not None:
                raise ValueError(wrong)
        if any(not _TOKEN.match(str(facts[name])) for name in _TOKENS if name in facts):
            raise ValueError("what is no pseudonym or digest of ours where one was due")
        if (pixels := facts["width"] * facts["height"]) > MAX_PIXELS:
            raise ValueError(f"a size of {pixels:,} pixels, above the limit of {MAX_PIXELS // 10**6} million")
        return facts

    def _wrong(self, field: Field, value: Value) -> str | None:
        """What keeps a value of the right type out."""
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) != field.several or not all(_storable(one, field.type) for one in values):
            return f"a value of {field.name} that is none"
        if field.type in _TEXTS and any(tidy(str(one)) != one for one in values):
            return f"a text of {field.name} that has what is taken out of every text: controls, marks or spaces"
        in_a_year = self._ages.get(field.name)
        if in_a_year is not None and capped(value, in_a_year, field.type is FieldType.KEYWORD) != value:
            return f"an age in {field.name} that had to be made 90"
        return None


def _storable(value: object, kind: FieldType) -> bool:
    """Whether an engine takes a value of the right type: text that is Unicode, numbers of 64 bits, days there are."""
    try:
        if kind is FieldType.DATE:
            datetime.date.fromisoformat(str(value))
        elif isinstance(value, str):
            value.encode()
        elif isinstance(value, int):
            value.to_bytes(8, signed=True)
    except (ValueError, OverflowError):
        return False
    return isinstance(value, Scalar)
