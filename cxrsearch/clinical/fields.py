"""Clinical facts: fields with types, and how text becomes a value of a field.

A value is a str (keyword, text, and date as ``YYYY-MM-DD``), int, float or bool, or a list of these.
A fact that is not known has no entry in the payload: missing is never stored as a value.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cxrsearch.text import tidy

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
    only after the image was taken, and so is no input where something of the future is to be predicted. ``unit``: of
    its numbers, for people; nothing is converted by it."""

    name: str
    type: FieldType
    several: bool = False
    later: bool = False
    unit: str | None = None


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
        Field("picture", FieldType.KEYWORD),
    )
}
PROJECTIONS = ("frontal", "lateral")
# What every image has at least one of.
_FROM_1 = frozenset({"width", "height", "frame"})
# Keyed digests of an image's file and of its pixels; what people are shown leaves them out.
DIGESTS = frozenset({"image_sha256", "picture"})
# Kept with each point to know what changed; never shown, never filtered on.
ROW_HASH = "_row"
# Before the name of a text field: those of its words that it affirms (indexer/negation.py). People are not shown it,
# nor anything else that begins with _.
AFFIRMED = "_affirmed_"
# Integers beyond this lose exactness in the engine's range queries (IEEE 754 double).
_LARGEST_INTEGER = 2**53
_TRUE, _FALSE = {"true", "yes", "y", "1", "1.0"}, {"false", "no", "n", "0", "0.0"}
# What float() takes and people do not mean: 1_000, nan, digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
# Formats of a date beside those of strptime: days as Excel counts them, by the day 0 of each of its two calendars. It
# takes 1900 for a leap year, so the first counts rightly from 1 March 1900 on, its day 61.
SERIAL_DATES = {"excel": datetime.date(1899, 12, 30), "excel-1904": datetime.date(1904, 1, 1)}
_FIRST_SERIAL = 61
# Days of the years 1950 to 2100, in which a number that is no date may be one all the same.
_LIKELY_SERIAL = range(18_264, 73_416)
_AGE = re.compile(r"([0-9]{1,3}) ?([DWMY]?)")
# How many of each unit of an age are in a year.
PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_OLDEST = 130
_ISO_DATE = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")

_KINDS = {
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "nothing",
}
_EXPECTED = {
    FieldType.KEYWORD: "a text",
    FieldType.TEXT: "a text",
    FieldType.BOOLEAN: "true or false",
    FieldType.INTEGER: "an integer",
    FieldType.FLOAT: "a finite number",
    FieldType.DATE: "a date",
}


def indexed(fields: Mapping[str, Field]) -> dict[str, FieldType]:
    """What an engine has to index, and as what: the fields, and what text fields affirm."""
    affirmed = {AFFIRMED + name: field.type for name, field in fields.items() if field.type is FieldType.TEXT}
    return {name: field.type for name, field in fields.items()} | affirmed


def shown(payload: Mapping[str, Value]) -> Payload:
    """The payload without what only we look at."""
    return {name: value for name, value in payload.items() if not name.startswith("_")}


def valid_field_name(name: str) -> bool:
    return bool(_FIELD_NAME.match(name))


def convert(text: str, kind: FieldType, formats: Sequence[str] = ()) -> Scalar:
    """One value from its text. Raises ValueError, whose message completes "the value ... ".

    ``formats``: ``strptime`` patterns or names of SERIAL_DATES, tried in order for a date; ISO 8601 when there is none.
    """
    text = tidy(text)
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


def years(text: str) -> float:
    """An age: years, or a number with its unit as in DICOM (PS3.5 6.2, AS): ``50Y``, ``006M``, ``12W``, ``3D``.

    Raises ValueError."""
    found = _AGE.fullmatch(tidy(text).upper())
    age = int(found[1]) / PER_YEAR[found[2] or "Y"] if found else math.inf
    if age > _OLDEST:
        raise ValueError("is no age")
    return age


def _number(text: str) -> float:
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("is no finite number")
    if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise ValueError("is no number")
    return number


def _date(text: str, formats: Sequence[str]) -> str:
    for pattern in formats or ("%Y-%m-%d",):
        try:
            if pattern in SERIAL_DATES:
                return _serial_date(text, SERIAL_DATES[pattern])
            return datetime.datetime.strptime(text, pattern).date().isoformat()
        except ValueError:
            continue
    hint = ""
    if _NUMBER.fullmatch(text) and int(float(text)) in _LIKELY_SERIAL and SERIAL_DATES.keys().isdisjoint(formats):
        hint = '; as a day that Excel counted, formats = ["excel"] reads it'
    raise ValueError(f"is no date of the form {' or '.join(formats or ('YYYY-MM-DD',))}{hint}")


def _serial_date(text: str, first: datetime.date) -> str:
    number = _number(text)
    if not _FIRST_SERIAL <= number < datetime.date.max.toordinal() - first.toordinal() + 1:
        raise ValueError("is no day of Excel")
    return (first + datetime.timedelta(days=int(number))).isoformat()


def wrong_type(payload: Mapping[str, Any], fields: Mapping[str, Field]) -> str | None:
    """The first value of a payload that is none of its field, as ``width: a text, not an integer``; None where all are
    what the index declares. For payloads that others wrote; names that ``fields`` lacks are passed over."""
    for name, value in payload.items():
        field = fields.get(name)
        if field is None:
            continue
        for part in value if isinstance(value, list) else [value]:
            if (wrong := _wrong(part, field)) is not None:
                return f"{name}: {wrong}"
    return None


def _wrong(value: Any, field: Field) -> str | None:
    if not _is_of(value, field.type):
        if field.type is FieldType.INTEGER and type(value) is int:
            return "an integer beyond 2^53"
        return f"{_KINDS.get(type(value), 'no value')}, not {_EXPECTED[field.type]}"
    if field.name in _FROM_1 and value < 1:
        return "below 1"
    if field.name == "projection" and value not in PROJECTIONS:
        return f"neither {' nor '.join(PROJECTIONS)}"
    return None


def _is_of(value: object, kind: FieldType) -> bool:
    match kind:
        case FieldType.KEYWORD | FieldType.TEXT:
            return isinstance(value, str)
        case FieldType.BOOLEAN:
            return isinstance(value, bool)
        case FieldType.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_INTEGER
        case FieldType.FLOAT:  # an engine may give 38 for 38.0
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        case FieldType.DATE:
            return isinstance(value, str) and _ISO_DATE.fullmatch(value) is not None


def values_of(payload: Mapping[str, Value], name: str) -> list[Scalar]:
    """The values of a field as a list; empty when it is missing."""
    value = payload.get(name)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
