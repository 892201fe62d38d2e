"""Clinical facts: fields with types, and how text becomes a value of a field.

A value is a str (keyword, text, and date as ``YYYY-MM-DD``), int, float or bool, or a list of these.
A fact that is not known has no entry in the payload: missing is never stored as a value.
"""

from __future__ import annotations

import datetime
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

Scalar = str | int | float | bool
Value = Scalar | list[Scalar]
Payload = dict[str, Value]


class FieldType(StrEnum):
    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TEXT = "text"


@dataclass(frozen=True)
class Field:
    """A declared clinical fact. ``several``: an image may have more than one value of it. ``later``: it became known
    only after the image was taken, and so is no input where something of the future is to be predicted."""

    name: str
    type: FieldType
    several: bool = False
    later: bool = False


# What every point has, whatever its dataset declares. Dataset mappings cannot redefine them.
SYSTEM_FIELDS = {
    field.name: field
    for field in (
        Field("dataset", FieldType.KEYWORD),
        Field("patient", FieldType.KEYWORD),
        Field("study", FieldType.KEYWORD),
        Field("path", FieldType.KEYWORD),
        Field("width", FieldType.INTEGER),
        Field("height", FieldType.INTEGER),
        Field("projection", FieldType.KEYWORD),
        Field("frame", FieldType.INTEGER),
        Field("image_sha256", FieldType.KEYWORD),
    )
}
# Kept with each point to know what changed; never shown, never filtered on.
ROW_HASH = "_row"

# Integers beyond this lose exactness in the engine's range queries (IEEE 754 double).
_LARGEST_INTEGER = 2**53
_TRUE, _FALSE = {"true", "yes", "y", "1", "1.0"}, {"false", "no", "n", "0", "0.0"}
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def valid_field_name(name: str) -> bool:
    return bool(_FIELD_NAME.match(name))


def clean(text: str) -> str:
    """Unicode NFC, control characters turned to a space, outer white space removed."""
    return _CONTROLS.sub(" ", unicodedata.normalize("NFC", text)).strip()


def convert(text: str, kind: FieldType, formats: Sequence[str] = ()) -> Scalar:
    """One value from its text. Raises ValueError, whose message completes "the value ... ".

    ``formats``: ``strptime`` patterns tried in order for a date; ISO 8601 when there is none.
    """
    text = clean(text)
    match kind:
        case FieldType.KEYWORD | FieldType.TEXT:
            return text
        case FieldType.BOOLEAN:
            if text.lower() in _TRUE:
                return True
            if text.lower() in _FALSE:
                return False
            raise ValueError("is neither true nor false")
        case FieldType.INTEGER:
            number = _number(text)
            if not number.is_integer() or abs(number) > _LARGEST_INTEGER:
                raise ValueError("is no integer")
            return int(number)
        case FieldType.FLOAT:
            return _number(text)
        case FieldType.DATE:
            return _date(text, formats)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("is no number") from None
    if not math.isfinite(number):
        raise ValueError("is no finite number")
    return number


def _date(text: str, formats: Sequence[str]) -> str:
    for pattern in formats or ("%Y-%m-%d",):
        try:
            return datetime.datetime.strptime(text, pattern).date().isoformat()
        except ValueError:
            continue
    raise ValueError(f"is no date of the form {' or '.join(formats or ('YYYY-MM-DD',))}")


def values_of(payload: Mapping[str, Value], name: str) -> list[Scalar]:
    """The values of a field as a list; empty when it is missing."""
    value = payload.get(name)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?`` with the closest known word, or an empty string."""
    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean {by_folded[close[0]]!r}?" if close else ""
