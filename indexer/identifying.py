"""What the cells of a column say of who a patient is, whatever the column is called.

A name is told by its form and by how often it repeats; a number by its length; both by each patient having their own.
Where nothing says which rows are of one patient, that cannot be told, and only what is clearly a fact may enter.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from cxrsearch.clinical.fields import FieldType, convert
from indexer.column_names import Role, is_event, is_measure, role_of, says_number, unit_of
from indexer.column_names import is_fact as names_fact
from indexer.column_values import MISSING, Cells, Reading, count, share
from indexer.numbers import whole

NAMES = "looks like names"
NUMBERS = "long numbers, as persons and documents have"
UNKNOWN = "may name a person: no column of patients was found to tell it from a fact"
UNKNOWN_NUMBERS = "may number persons or documents: no column of patients was found to tell"
OWN = "nearly every patient has its own, as names and numbers of people do"
MANY = "many values of a few rows each, as names and notes are"
FEW = "too few rows for each value to tell facts from names"
ONE_DATE = "a date or year of which each patient has one, as of births"
BIRTHS = "mostly dates or years before 1990, as of births"
# What may stand in names of files too.
OF_PEOPLE = frozenset({NAMES, NUMBERS, OWN, FEW, UNKNOWN, UNKNOWN_NUMBERS})
_FIRST_YEAR = 1990
_MOST = 0.9
# Parts of the rows that have a value of their own, above which capitalised words are names: findings and places repeat.
_NAMES_OWN, _WORDS_OWN, _NUMBERS_OWN = 0.25, 0.5, 0.1
# Values, or patients, below which how they repeat says nothing.
_FEW_NAMES, _FEW, _MANY = 3, 8, 20
# Rows at least of each value that no patient has alone. Of codes as short as L and R: values at most, and rows of each
# on average.
_SHARED, _SHARED_CODES, _SHORT = 20, (6, 1.5), 2
# Part of the rows with a value of their own, up to which whole numbers repeat as measurements do.
_REPEATED = 0.5
# Runs of equal cells, for each value, from which on its rows are apart.
_APART = 1.5
# Ages, scores and percentages are no greater.
_SMALL = 150
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
# With a name behind it: DR alone is a modality, and med a dose.
_TITLED = re.compile(r"(dr|prof|dott|lek|med)(\.\s*|\s+)[^\W\d_].*", re.IGNORECASE)
_LETTERS = re.compile(r".*[^\W\d_]{2}.*")
_WORD = r"[^\W\d_][\w'\u2019.-]*"
_NAME = re.compile(rf"{_WORD}( {_WORD}){{1,3}}")
_ONE_WORD = re.compile(_WORD)
# Numbers of laboratories that are as long are rounded to hundreds.
_LONG_NUMBER, _SHORT_NUMBER = re.compile(r"[0-9]{6,}(?<!00)"), re.compile(r"[+-]?[0-9]{1,4}|[0-9]{3,}00")
_YEAR, _OLD_YEAR = re.compile(r"19[0-9]{2}|20[0-2][0-9]"), re.compile(r"19[0-8][0-9]")
_LONG_CODE = re.compile(r"[A-Za-z]{0,5}[-_/ ]?[0-9]([-_/. ]?[0-9]){4,}[A-Za-z]?")
# Between the names of a person, and not capitalised.
_PARTICLES = frozenset({"da", "de", "del", "della", "der", "di", "du", "la", "le", "van", "von", "y", "zu"})


def why_left_out(known: Cells, reading: Reading, column: str, patient_of: Mapping[int, str]) -> str | None:
    """Why a column should not enter an index, None where it may. patient_of: of each row that has one, its patient."""
    role = role_of(column)
    if reading.type is FieldType.DATE:
        return _why_no_date(known, reading, column, patient_of)
    if role is not None or reading.type not in (FieldType.KEYWORD, FieldType.INTEGER):
        return None
    own = len(known) / count(known)
    of_patient = len(known) / len({patient_of.get(row, row) for rows in known.values() for row in rows})
    if reading.type is FieldType.INTEGER:
        numbers = {whole(text): rows for text, rows in known.items() if text not in reading.missing}
        if share(numbers, _YEAR) >= _MOST and not names_fact(column):
            if share(numbers, _OLD_YEAR) > 1 / 2:
                return BIRTHS
            # Sizes of detectors are in these years too, but of few kinds.
            is_varied = len(numbers) > _FEW_NAMES or of_patient > _NAMES_OWN
            if is_varied and not is_event(column) and _has_one_each(known, patient_of):
                return ONE_DATE
        if of_patient > _NUMBERS_OWN and share(numbers, _LONG_NUMBER) >= _MOST:
            return NUMBERS
        if patient_of or names_fact(column) or is_measure(reading.unit or unit_of(column)):
            return None
        return None if _is_small(numbers) or _measures(numbers, column) else UNKNOWN_NUMBERS
    if (why := _why_no_words(known, reading, own, of_patient, patient_of)) is not None:
        return why
    return None if patient_of or is_shared(known) or names_fact(column) else UNKNOWN


def _why_no_words(
    known: Cells, reading: Reading, own: float, of_patient: float, patient_of: Mapping[int, str]
) -> str | None:
    """own, of_patient: distinct values in each row, and for each patient."""
    if of_patient > _NUMBERS_OWN and share(known, _LONG_CODE) >= _MOST:
        return NUMBERS
    if share(known, _TITLED) >= 1 / 2:
        return NAMES
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


def _why_no_date(known: Cells, reading: Reading, column: str, patient_of: Mapping[int, str]) -> str | None:
    """Births of children are as late as their images, so that a date has to be one of something done, by its name, or
    to differ within patients."""
    if _old(known, reading.formats) > count(known) / 2:
        return BIRTHS
    if role_of(column) in (Role.STUDY_DATE, Role.OUTCOME) or is_event(column):
        return None
    if not patient_of:
        return UNKNOWN
    return ONE_DATE if _has_one_each(known, patient_of) else None


def is_shared(known: Cells) -> bool:
    """Whether so many rows have each value that none is one patient's. On average would not do: a surname may stand
    among common words."""
    known = {text: rows for text, rows in known.items() if text.casefold() not in MISSING} or known
    if share(known, _LETTERS) == 0 and max(map(len, known)) <= _SHORT:
        values, rows = _SHARED_CODES
        return len(known) <= values and count(known) >= rows * len(known)
    return min(map(len, known.values())) >= _SHARED and (len(known) <= _SHARED or _comes_back(known))


def _is_small(numbers: Cells) -> bool:
    """Whether whole numbers are as small as ages and scores are, and do not count the rows up."""
    values = {int(text): rows for text, rows in numbers.items() if _INTEGER.fullmatch(text)}
    if not values or max(map(abs, values)) > _SMALL:
        return False
    in_order = [value for _, value in sorted((row, value) for value, rows in values.items() for row in rows)]
    return len(values) < _FEW or len(values) < len(in_order) or in_order != sorted(in_order)


def _measures(numbers: Cells, column: str) -> bool:
    """Whether whole numbers are as short as measurements and come back as they do. Years may be of birth, unless the
    column's name says of what they are."""
    if share(numbers, _YEAR) >= 1 / 2:
        return is_event(column)
    is_repeated = len(numbers) <= _REPEATED * count(numbers) and _comes_back(numbers)
    return is_repeated and share(numbers, _SHORT_NUMBER) >= _MOST and not says_number(column)


def _comes_back(known: Cells) -> bool:
    """Whether most values are in rows apart from each other: what is one patient's is often on rows in a row."""
    in_order = [text for _, text in sorted((row, text) for text, rows in known.items() for row in rows)]
    runs = 1 + sum(text != before for text, before in pairwise(in_order))
    return runs >= _APART * len(known)


def _is_capitalised(text: str) -> bool:
    return all(word[0].isupper() or word in _PARTICLES for word in text.split())


def _each_patient_has_one(known: Cells, patient_of: Mapping[int, str]) -> bool:
    values = _values_of_patients(known, patient_of)
    single = [next(iter(found)) for found in values.values() if len(found) == 1]
    return len(values) >= _FEW and len(single) >= _MOST * len(values) and len(set(single)) > len(values) / 2


def _has_one_each(known: Cells, patient_of: Mapping[int, str]) -> bool:
    """Whether the value stays what it is from image to image of a patient."""
    values = _values_of_patients(known, patient_of)
    return bool(values) and sum(len(found) == 1 for found in values.values()) >= _MOST * len(values)


def _values_of_patients(known: Cells, patient_of: Mapping[int, str]) -> dict[str, set[str]]:
    values = defaultdict[str, set[str]](set)
    for text, rows in known.items():
        for row in rows:
            if row in patient_of:
                values[patient_of[row]].add(text)
    return values


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
