"""What the cells of a column are: a type, how it is written, and which cells are none, by trying each on all cells.

Nothing here quotes a cell: of exceptions only the row is kept, and of words only those of the lists below.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cxrsearch.clinical.fields import SERIAL_DATES, FieldType, Scalar, convert
from cxrsearch.text import tidy
from indexer.numbers import is_scientific, plain

_YES = "yes y true t 1 1.0 ja j wahr oui vrai si positive positiv pos present vorhanden + x"
_NO = "no n false f 0 0.0 nein falsch non faux negative negativ neg absent -"
YES, NO = frozenset(_YES.split()), frozenset(_NO.split())
# convert() knows these by itself.
_KNOWN = "yes y true 1 1.0 no n false 0 0.0"
_KNOWN_WORDS = frozenset(_KNOWN.split())
_NOT_KNOWN = (
    "?, ??, -, --, ---, ., n/a, na, #n/a, #nv, nan, null, nil, unknown, unk, unbekannt, missing, k.a., k. a., ka,"
    " keine angabe, fehlt, nd, n.d., todo, not available, not known, not stated"
)
MISSING = frozenset(_NOT_KNOWN.split(", "))
# Only where the others are numbers or dates: of findings, "none" is one.
_MISSING_BESIDE_NUMBERS = frozenset({"none", "kein", "keine", "x", "not done", "nicht bestimmt"})
# Neither yes nor no.
_UNSURE = frozenset({"unclear", "unsure", "uncertain", "unklar", "fraglich"})
# Numbers that stand for "not known" where they are far from all others.
_CODES = frozenset({-1, -9, -99, -999, -9999, 99, 999, 9999, 99999})
_DATE_FORMATS = (
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M",
    "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y",
    "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y",
    "%d-%b-%Y", "%d-%b-%y",
)  # fmt: skip
# Years of digital radiographs: numbers that are days of Excel in other years are taken for something else.
_FIRST_YEAR = 1985
_NUMBER = r"[+-]?[0-9][0-9.,' ]*"
_BOUND = re.compile(rf"[<>\u2264\u2265]=?\s*{_NUMBER}|{_NUMBER}\s*\+")
_WITH_UNIT = re.compile(rf"({_NUMBER}?)\s*([A-Za-z%\u00b0\u00b5\u03bc][\w%\u00b0\u00b5\u03bc/^]{{0,11}})")
_PERSON = re.compile(r"[^\W\d_][\w'\u2019.-]+(,\s*|\^)[^\W\d_][\w'\u2019. ^-]*")
_CONTACT = re.compile(r"\S+@\S+\.\w+|\w+://\S+|(\+|00)[0-9 /()-]{8,}")
# Parts of the known cells that have to be values of a type; fewer where the column's name says date.
_MOST, _HALF = 0.9, 0.5
# Letters of a cell, on average, above which cells are text; more in one cell than any word has.
_LONG_TEXT, _LONGEST_WORD = 40, 200
# Words of a column, evenly spread, that are tried as dates before all are.
_SAMPLE = 500
# From how many cells on "each row its own" says something.
_MANY = 8


@dataclass
class Reading:
    """What a column holds. known: cells that are neither blank nor a missing word.

    missing: words, bounds and codes that are not known. values: words and what they become.
    unreadable: rows of cells that are none of the type. notes: what people should check.
    left_out: why the column should not enter an index, None where it may.
    """

    type: FieldType
    known: int
    missing: list[str] = field(default_factory=list)
    values: dict[str, Scalar] = field(default_factory=dict)
    formats: list[str] = field(default_factory=list)
    decimal: str | None = None
    separator: str | None = None
    unit: str | None = None
    pattern: str | None = None
    unreadable: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: str | None = None


Cells = Mapping[str, Sequence[int]]


def read(
    cells: Cells, is_date: bool, decimal: str | None, is_place: bool = False, calendar: str | None = None
) -> Reading | None:
    """What a column holds whose distinct tidy texts, blanks aside, stand in these rows; None where nothing is known.

    is_date, is_place: the name says so. decimal: the table's mark, where other columns tell it. calendar: the one of
    SERIAL_DATES that the table's file says it counts days by.
    """
    words = {text: rows for text, rows in cells.items() if text.casefold() in MISSING}
    known = {text: rows for text, rows in cells.items() if text not in words}
    if "+" in known and set(words) >= {"-"}:
        known["-"] = words.pop("-")
    if not known:
        return None
    found = _booleans(known) or _dates(known, is_date, calendar) or _numbers(known, decimal) or _texts(known, is_place)
    found.missing = sorted(words) + found.missing
    return found


def is_yes_and_no(cells: Cells) -> bool:
    """Whether every cell that is known is a yes or a no, and both occur."""
    words = {text.casefold() for text in cells} - MISSING
    return words <= YES | NO and not words.isdisjoint(YES) and not words.isdisjoint(NO)


def count(cells: Cells) -> int:
    return sum(map(len, cells.values()))


def _rows(cells: Cells) -> list[int]:
    return sorted(row for rows in cells.values() for row in rows)


def _booleans(known: Cells) -> Reading | None:
    unsure = sorted(text for text in known if text.casefold() in _UNSURE)
    known = {text: rows for text, rows in known.items() if text not in unsure}
    folded = {text: text.casefold() for text in known}
    if not known or not all(word in YES | NO for word in folded.values()):
        return None
    meant = {word in YES for word in folded.values()}
    if len(meant) == 1 and set(folded.values()) <= {"0", "1", "0.0", "1.0", "x", "+", "-"}:
        return None  # nothing but zeros may be a count as well
    values: dict[str, Scalar] = {t: w in YES for t, w in folded.items() if w not in _KNOWN_WORDS}
    return Reading(FieldType.BOOLEAN, count(known), missing=unsure, values=values)


def _without_missing_beside_numbers(known: Cells) -> tuple[Cells, list[str]]:
    more = sorted(text for text in known if text.casefold() in _MISSING_BESIDE_NUMBERS)
    return {text: rows for text, rows in known.items() if text not in more}, more


def _readable(
    known: Iterable[str], kind: FieldType, formats: Sequence[str] = (), decimal: str | None = None
) -> set[str]:
    found = set()
    for text in known:
        try:
            convert(plain(text, decimal) if decimal else text, kind, formats)
        except ValueError:
            continue
        found.add(text)
    return found


def _dates(known: Cells, is_date: bool, calendar: str | None) -> Reading | None:
    known, more = _without_missing_beside_numbers(known)
    if not known or not any(re.search(r"[0-9]", text) for text in known):
        return None
    # Eight digits are a date only in a column of such years; strptime takes fewer digits than that.
    compact = all(re.fullmatch(r"(19|20)[0-9]{6}", text) for text in known)
    candidates = [f for f in _DATE_FORMATS if (f == "%Y%m%d") == compact]
    some = list(known)[:: len(known) // _SAMPLE + 1]
    if not any(_readable(some, FieldType.DATE, [f]) for f in [*candidates, *(SERIAL_DATES if is_date else ())]):
        return None  # trying each format on a hundred thousand words takes a minute
    by_format = {f: _readable(known, FieldType.DATE, [f]) for f in candidates}
    serial, written = calendar or "excel", set().union(*by_format.values())
    days = _days_of_excel({t: rows for t, rows in known.items() if t not in written}, serial)
    # A number alone is a date only where the column's name, or most other cells, say that they are dates.
    if days and (is_date or count({t: known[t] for t in written}) >= _HALF * count(known)):
        by_format[serial] = days
    formats: list[str] = []
    left = set(known)
    while len(formats) < 3 and (best := max(by_format, key=lambda f: len(by_format[f] & left))) is not None:
        if not by_format[best] & left:
            break
        formats.append(best)
        left -= by_format[best]
    needed = _HALF if is_date and serial not in formats else _MOST
    if not formats or count(known) - count({t: known[t] for t in left}) < needed * count(known):
        return None
    notes = []
    first = by_format[formats[0]]
    twin = _swapped(formats[0])
    if twin != formats[0] and twin in by_format and (both := by_format[twin] & first):
        if len(both) == len(first):
            notes.append(f"every date can be read as {formats[0]} and as {twin}: check which")
        formats = [f for f in formats if f != twin or not by_format[f] & first]
        left = set(known) - set().union(*(by_format[f] for f in formats))
    if serial in formats:
        notes.append(_serial_note({text: known[text] for text in days}, calendar))
    reading = Reading(FieldType.DATE, count(known), missing=more, formats=formats, notes=notes)
    reading.unreadable = _rows({text: known[text] for text in left})
    return reading


def _days_of_excel(known: Cells, calendar: str) -> set[str]:
    """The cells that are days of Excel, where nearly all are of years that have such images."""
    days = _readable(known, FieldType.DATE, [calendar])
    likely = {t: known[t] for t in days if _FIRST_YEAR <= _year(t, calendar) <= datetime.date.today().year + 1}
    return days if likely and count(likely) >= _MOST * count({t: known[t] for t in days}) else set()


def _serial_note(days: Cells, calendar: str | None) -> str:
    years = sorted(_year(text, calendar or "excel") for text in days)
    counted = f"{count(days)} cells are numbers, read as the days that Excel counts from"
    note = f"{counted} {1904 if calendar == 'excel-1904' else 1900}: of the years {years[0]} to {years[-1]}"
    return note if calendar is not None else f'{note}; a Mac may have counted from 1904 (formats = ["excel-1904"])'


def _year(text: str, calendar: str) -> int:
    return int(str(convert(text, FieldType.DATE, [calendar]))[:4])


def _swapped(pattern: str) -> str:
    """The format in which day and month change places."""
    return pattern.replace("%d", "%M_").replace("%m", "%d").replace("%M_", "%m")


def _numbers(known: Cells, table_decimal: str | None) -> Reading | None:
    known, more = _without_missing_beside_numbers(known)
    bounds = {text for text in known if _BOUND.fullmatch(text)}
    inner = {text: rows for text, rows in known.items() if text not in bounds}
    if not inner:
        return None
    if any(re.fullmatch(r"0[0-9]+", text) for text in inner):
        return None  # a code: its zeros would be lost
    pattern, unit, bare = _units(inner)
    # The table's own mark first: max() takes the first of equals.
    marks = tuple(dict.fromkeys((table_decimal, None, ",", ".")))
    readable = {mark: _readable(bare, FieldType.FLOAT, decimal=mark) for mark in marks}
    mark = max(marks, key=lambda m: count({t: bare[t] for t in readable[m]}))
    numbers = {text: bare[text] for text in readable[mark]}
    if not numbers or count(numbers) < _MOST * count(bare):
        return None
    notes = []
    if table_decimal is None and readable[","] == readable["."] > readable[None]:
        notes.append('a comma before three digits may part thousands or decimals: say decimal = "." or ","')
        return Reading(FieldType.KEYWORD, count(known), missing=more, notes=notes)
    values = {text: float(plain(text, mark) if mark else text) for text in numbers}
    whole = all(value.is_integer() and abs(value) < 2**53 for value in values.values())
    codes = _codes(values)
    reading = Reading(FieldType.INTEGER if whole else FieldType.FLOAT, count(known), missing=more, decimal=mark)
    reading.unit, reading.pattern, reading.notes = unit, pattern, notes
    reading.unreadable = _rows({text: rows for text, rows in bare.items() if text not in numbers})
    if bounds:
        cells = count({text: known[text] for text in bounds})
        notes.append(
            f"{cells} cells are bounds (< or +), taken as not known; values = {{ ... }} would give them numbers"
        )
        reading.missing += sorted(bounds)
    if codes:
        cells = count({text: numbers[text] for text in codes})
        notes.append(f"{cells} cells are a number far from all others that often means not known")
        reading.missing += codes
    if scientific := sum(len(rows) for text, rows in numbers.items() if is_scientific(text)):
        notes.append(f"{scientific} cells are written as 1E+05 is: a spreadsheet may have lost digits")
    return reading


def _units(inner: Cells) -> tuple[str | None, str | None, dict[str, Sequence[int]]]:
    """A pattern, the unit and the bare numbers of cells that have one; without one, the cells themselves."""
    parts = {text: _WITH_UNIT.fullmatch(text) for text in inner}
    units = {part[2] for part in parts.values() if part and part[1]}
    with_unit = count({text: inner[text] for text, part in parts.items() if part and part[1]})
    if len(units) != 1 or with_unit < _HALF * count(inner):
        return None, None, dict(inner)
    bare: dict[str, Sequence[int]] = {}
    for text, rows in inner.items():
        part = parts[text]
        number = tidy(part[1]) if part and part[1] else text
        bare[number] = [*bare.get(number, ()), *rows]
    return r"^([+-]?[0-9][0-9.,' ]*?)\s*[^0-9.,' ]*$", units.pop(), bare


def _codes(values: Mapping[str, float]) -> list[str]:
    others = [value for value in values.values() if value not in _CODES]
    if not others:
        return []
    low, high = min(others), max(others)
    return sorted(
        text
        for text, value in values.items()
        if value in _CODES and ((value < 0 <= low) or (value > 0 and value > 5 * max(high, 1)))
    )


def _texts(known: Cells, is_place: bool) -> Reading:
    total = count(known)
    reading = Reading(FieldType.KEYWORD, total)
    if is_place and len(known) <= (1 - _MOST) * total and max(map(len, known)) <= _LONGEST_WORD:
        return reading  # hospitals have long names
    if sum(len(text) * len(rows) for text, rows in known.items()) > _LONG_TEXT * total or (
        max(map(len, known)) > _LONGEST_WORD
    ):
        reading.left_out = "free text, which may name people"
    elif share(known, _CONTACT) >= _HALF:
        reading.left_out = "addresses or numbers of people"
    elif not is_place and share(known, _PERSON) >= _MOST:
        reading.left_out = "looks like names"
    elif total >= _MANY and len(known) > _MOST * total:
        reading.left_out = "nearly every row has its own, as names and numbers of people do"
    else:
        reading.separator = _separator(known)
    return reading


def share(known: Cells, pattern: re.Pattern[str]) -> float:
    """The part of the cells that have this form, 0..1."""
    return count({text: rows for text, rows in known.items() if pattern.fullmatch(text)}) / count(known)


def _separator(known: Cells) -> str | None:
    """What parts several values in a cell: parts that stand alone in other cells, or in several lists, say so."""
    for mark, sure in (("|", True), (";", True), (",", False)):
        lists = [[tidy(part) for part in text.split(mark)] for text in known if mark in text]
        parts = {part for one in lists for part in one}
        alone = sum(part in known for part in parts)
        if lists and (alone * 2 >= len(parts) or (sure and len(parts) < sum(map(len, lists)))):
            return mark
    return None
