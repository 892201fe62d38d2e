"""Ages above 89 as they may enter an index: so few are older that the age alone may name them.

Years (DICOM PS3.15 follows 45 CFR 164.514). Which field holds an age, and in what unit, is told by what it and its
column are called: a table says it nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from cxrsearch.clinical.fields import Scalar, Value, years
from indexer.column_names import age_units, units_in_a_year

OLDEST = 90
# Of the rule: what entered by another one is stored again, and files of embeddings by another are refused.
VERSION = 3
# An age of a header (PS3.5 6.2, AS).
_DICOM = re.compile(r"[0-9]{3}[DWMY]")


class Source(Protocol):
    """Where a field is from (indexer/mapping.py)."""

    @property
    def column(self) -> str | None: ...
    @property
    def dicom(self) -> str | None: ...
    @property
    def unit(self) -> str | None: ...


def units_of(fields: Mapping[str, Source]) -> dict[str, float]:
    """Of each field that says how old the patient is, how many of its units are in a year."""
    found = {}
    for name, field in fields.items():
        said = [one for one in (age_units(field.column or ""), age_units(name)) if one is not None]
        if field.dicom == "PatientAge":
            found[name] = 1.0
        elif said:
            # Where one of the two names a unit, it is that.
            found[name] = max(said) if field.unit is None else units_in_a_year(field.unit)
    return found


def capped(value: Value, in_a_year: float, is_word: bool) -> Value:
    """``in_a_year``: of the units that a number is in. A word (``094Y``, ``90-94``) becomes ``90+``."""
    if isinstance(value, list):
        return list(dict.fromkeys(_capped(one, in_a_year, is_word) for one in value))
    return _capped(value, in_a_year, is_word)


def _capped(value: Scalar, in_a_year: float, is_word: bool) -> Scalar:
    if isinstance(value, str):
        return f"{OLDEST}+" if is_word and _oldest(value, in_a_year) >= OLDEST else value
    if isinstance(value, bool) or value < OLDEST * in_a_year:
        return value
    return int(OLDEST * in_a_year) if isinstance(value, int) else OLDEST * in_a_year


def _oldest(text: str, in_a_year: float) -> float:
    """The greatest age in a text, in years: a number by the word behind it, else as the next one, else as the field."""
    if _DICOM.fullmatch(text.strip().upper()):
        try:
            return years(text)
        except ValueError:
            return float("inf")
    oldest, units = 0.0, in_a_year
    for number, word in reversed(re.findall(r"([0-9]+)\s*([^\W\d_]*)", text)):
        units = units_in_a_year(word) if word else units
        oldest = max(oldest, int(number) / units)
    return oldest
