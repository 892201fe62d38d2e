"""What the cells of a column say of who a patient is, whatever the column is called.

A name is told by its form and by how often it repeats; a number by its length; both by each patient having their own.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Mapping

from cxrsearch.clinical.fields import FieldType, convert
from indexer.column_names import Role
from indexer.column_values import Cells, Reading, count, share
from indexer.numbers import whole

NAMES = "looks like names"
NUMBERS = "long numbers, as persons and documents have"
OWN = "nearly every patient has its own, as names and numbers of people do"
MANY = "many values of a few rows each, as names and notes are"
FEW = "too few rows for each value to tell facts from names"
BIRTHS = "mostly dates or years before 1990, as of births"
# What may stand in names of files too.
OF_PEOPLE = frozenset({NAMES, NUMBERS, OWN, FEW})
_FIRST_YEAR = 1990
_MOST = 0.9
# Parts of the rows that have a value of their own, above which capitalised words are names: findings and places repeat.
_NAMES_OWN, _WORDS_OWN, _NUMBERS_OWN = 0.25, 0.5, 0.1
# Values, or patients, below which how they repeat says nothing.
_FEW_NAMES, _FEW, _MANY = 3, 8, 20
_LETTERS = re.compile(r".*[^\W\d_]{2}.*")
_WORD = r"[^\W\d_][\w'\u2019.-]*"
_NAME = re.compile(rf"{_WORD}( {_WORD}){{1,3}}")
_ONE_WORD = re.compile(_WORD)
# Numbers of laboratories that are as long are rounded to hundreds.
_LONG_NUMBER = re.compile(r"[0-9]{6,}(?<!00)")
_YEAR, _OLD_YEAR = re.compile(r"19[0-9]{2}|20[0-2][0-9]"), re.compile(r"19[0-8][0-9]")
_LONG_CODE = re.compile(r"[A-Za-z]{0,5}[-_/ ]?[0-9]([-_/. ]?[0-9]){4,}[A-Za-z]?")
# Between the names of a person, and not capitalised.
_PARTICLES = frozenset({"da", "de", "del", "della", "der", "di", "du", "la", "le", "van", "von", "y", "zu"})


def why_left_out(known: Cells, reading: Reading, role: Role | None, patient_of: Mapping[int, str]) -> str | None:
    """Why a column should not enter an index, None where it may. patient_of: of each row that has one, its patient."""
    if reading.type is FieldType.DATE:
        return BIRTHS if _old(known, reading.formats) > count(known) / 2 else None
    if role is not None or reading.type not in (FieldType.KEYWORD, FieldType.INTEGER):
        return None
    own = len(known) / count(known)
    if reading.type is FieldType.INTEGER:
        numbers = {whole(text): rows for text, rows in known.items()}
        if share(numbers, _YEAR) >= _MOST and share(numbers, _OLD_YEAR) > 1 / 2:
            return BIRTHS
        return NUMBERS if own > _NUMBERS_OWN and share(numbers, _LONG_NUMBER) >= _MOST else None
    if own > _NUMBERS_OWN and share(known, _LONG_CODE) >= _MOST:
        return NUMBERS
    capitalised = {text: rows for text, rows in known.items() if _is_capitalised(text)}
    if count(capitalised) >= _MOST * count(known):
        if len(known) >= _FEW_NAMES and own > _NAMES_OWN and share(known, _NAME) >= _MOST:
            return NAMES
        if len(known) >= _FEW and own > _WORDS_OWN and share(known, _ONE_WORD) >= _MOST:
            return NAMES
    if _each_patient_has_one(known, patient_of):
        return OWN
    # In a small table, or where nothing says whose rows these are, a surname looks like any other word.
    if (not patient_of or count(known) < _MANY) and own > _NAMES_OWN and share(known, _LETTERS) > 0:
        return FEW
    return MANY if len(known) >= _MANY and own > _NAMES_OWN and reading.separator is None else None


def _is_capitalised(text: str) -> bool:
    return all(word[0].isupper() or word in _PARTICLES for word in text.split())


def _each_patient_has_one(known: Cells, patient_of: Mapping[int, str]) -> bool:
    values = defaultdict[str, set[str]](set)
    for text, rows in known.items():
        for row in rows:
            if row in patient_of:
                values[patient_of[row]].add(text)
    single = [next(iter(found)) for found in values.values() if len(found) == 1]
    return len(values) >= _FEW and len(single) >= _MOST * len(values) and len(set(single)) > len(values) / 2


def _old(known: Cells, formats: list[str]) -> int:
    """How many cells are dates before the archives of digital radiographs."""
    return sum(len(rows) for text, rows in known.items() if any(_is_old(text, pattern) for pattern in formats))


def _is_old(text: str, pattern: str) -> bool:
    try:
        year = int(str(convert(text, FieldType.DATE, [pattern]))[:4])
    except ValueError:
        return False
    # Of two digits, 45 is read as 2045.
    return year < _FIRST_YEAR or ("%y" in pattern and year > datetime.date.today().year)
