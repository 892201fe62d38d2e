"""A mapping drafted from a table and a folder of images: which column is what, with the evidence for it.

A draft never quotes a cell that may be of one person: it has counts and rows, and words only where a list of
column_values.py has them. What may identify a patient is left out, and the draft says which columns those are.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxrsearch.clinical.fields import SYSTEM_FIELDS, FieldType
from cxrsearch.errors import MappingError
from cxrsearch.text import tidy
from indexer import column_names, column_values, identifying, image_columns, sheets
from indexer.column_names import LEFT_OUT, Role
from indexer.column_values import Cells, Reading
from indexer.dialect import Detected, detect
from indexer.folder import is_text
from indexer.image_columns import Matching
from indexer.numbers import is_scientific, whole
from indexer.tables import Line, Table, read_header, read_table

# Rows that are named before the rest is only counted.
_SHOWN_ROWS = 5
# Roles whose field has the role's name, for the first column of it.
_NAMED_BY_ROLE = (Role.VIEW, Role.SITE, Role.AGE, Role.SEX, Role.FINDING, Role.STUDY_DATE)
# What tables of any dataset are called.
_NO_NAMES = frozenset({"data", "export", "facts", "index", "labels", "list", "meta", "metadata", "table"})
# Part of the rows whose file has a short number in its name without meaning the patient.
_BY_CHANCE = 0.05
# Digits of a patient's number that are told from a counter.
_LONG_NUMBER = re.compile(r"[0-9]{5,}")
_NAME = re.compile(r"[^\W\d_]{3,}")
_RUN, _DIGITS = re.compile(r"[^\W_]+"), re.compile(r"[0-9]+")
_HOLDS_NAMES = "\n  Is --images right? One column has to hold their names, with or without ending and folder."
_VALUE = re.compile(r"[+-]?[0-9][0-9.,:/\s-]*")


@dataclass(frozen=True)
class DraftedField:
    """A field of the draft: its name, its column, what the cells are, and whether it became known later."""

    name: str
    column: str
    reading: Reading
    later: bool


@dataclass
class Draft:
    """What a table and a folder look like. draft_toml.py writes it down.

    patient, study: the column of each, None where there is none. left_out: columns with the reason.
    numbers: of the patient column, how many rows have one and how many of those are written as 1E+05.
    hashed: whether names of files hold the patient's number or name. decimal: of most numbers, None where all have a
    point. calendar: by which the file says that it counts days, as a workbook does.
    """

    name: str
    table: Path
    detected: Detected
    rows: Table
    matching: Matching
    images: int
    patient: str | None = None
    study: str | None = None
    numbers: tuple[int, int] = (0, 0)
    fields: list[DraftedField] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    hashed: bool = False
    decimal: str | None = None
    calendar: str | None = None


def draft(table: Path, images: Path, sheet: str | None = None) -> Draft:
    """Read a table and a folder, and decide what each column is. Raises MappingError, which quotes no cell."""
    if not table.is_file():
        raise MappingError(f"{table}: no such table; name the CSV, Excel or Parquet file whose rows are of your images")
    if not images.is_dir():
        raise MappingError(f"{images}: no such folder; say with --images where the images are")
    for path, what in ((table, "file"), (images, "folder")):
        if not is_text(str(path.resolve())):
            raise MappingError(f"{path}: the name of this {what} is no text in UTF-8; rename it")
    detected = detect(table, sheet)
    header = read_header(table, detected.dialect)
    names = [name for name in header if name and header.count(name) == 1]
    read = read_table(table, detected.dialect, {name: name for name in names}, table.name)
    found = image_columns.images_below(images)
    _check_header(table, header, found)
    if not read.rows:
        raise MappingError(f"{table.name}: has no rows below its header")
    matching = image_columns.match(read.rows, names, found)
    several = sorted({name for name in header if name and header.count(name) > 1})
    if matching is None:
        twice = f"\n  Rename columns of one name: {', '.join(several)[:200]}." if several else _HOLDS_NAMES
        raise MappingError(f"{table.name}: no column names a file in {images}, which has {len(found)} images.{twice}")
    drafted = Draft(_dataset_name(table, images), table, detected, read, matching, len(found))
    drafted.calendar = sheets.calendar(table)
    for name in several:
        drafted.left_out[name] = "several columns have this name; rename them"
    cells = {name: _cells(read.rows, name) for name in names}
    drafted.hashed = any(map(column_names.names_person, matching.columns))
    _choose_identifiers(drafted, cells)
    _choose_fields(drafted, cells)
    return drafted


def _cells(rows: Sequence[Line], column: str) -> dict[str, list[int]]:
    """The distinct texts of a column and the rows of each; blank ones aside."""
    found = defaultdict[str, list[int]](list)
    for line in rows:
        if text := tidy(line.cells[column]):
            found[text].append(line.number)
    return dict(found)


def _check_header(table: Path, header: Sequence[str], images: Sequence[str]) -> None:
    """Raises MappingError for a table that begins with a row: its cells would stand in the draft as names."""
    files = {Path(name).name for name in images} | {Path(name).stem for name in images}
    if any(_VALUE.fullmatch(name) or Path(name).name in files for name in header if name):
        raise MappingError(
            f"{table.name}: its first line has values where names of columns belong. Write a line of names above it."
        )


def _dataset_name(table: Path, images: Path) -> str:
    stem = images.resolve().name if table.stem.lower() in _NO_NAMES else table.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")
    return name[:64] or "dataset"


def _choose_identifiers(drafted: Draft, cells: dict[str, dict[str, list[int]]]) -> None:
    for column in filter(cells.get, cells):
        role = column_names.role_of(column)
        if role is Role.PATIENT and (
            drafted.patient is None
            or (column_names.says_patient(column) and not column_names.says_patient(drafted.patient))
        ):
            drafted.patient = column
        elif role is Role.STUDY and drafted.study is None:
            drafted.study = column
    if drafted.patient is None:
        return
    known = {
        text: rows for text, rows in cells[drafted.patient].items() if text.casefold() not in column_values.MISSING
    }
    scientific = {text: rows for text, rows in known.items() if is_scientific(text)}
    drafted.numbers = (column_values.count(known), column_values.count(scientific))
    drafted.hashed |= drafted.patient in drafted.matching.columns or _name_patients(drafted, known)


def _name_patients(drafted: Draft, known: Cells, words: bool = False) -> bool:
    """Whether files have their patient's number in their names, which would enter the index with the path; with
    ``words``, or one of the patient's names."""
    named, rows = drafted.matching.found, 0
    for text, numbers in known.items():
        parts = {text, whole(text), *_LONG_NUMBER.findall(text), *(_NAME.findall(text) if words else ())}
        runs = {_runs(part) for part in parts if len(part) > 2}
        digits = {part.lstrip("0") for part in parts if part.isdecimal() and len(part) > 3}
        for number in numbers:
            names = named.get(number, ())
            rows += any(run in _runs(name) for name in names for run in runs) or any(
                not digits.isdisjoint(found.lstrip("0") for found in _DIGITS.findall(name)) for name in names
            )
    return rows > _BY_CHANCE * len(named)


def _runs(text: str) -> str:
    """Runs of letters and digits in ``/``, numbers without zeros in front: one text holds another whole, or not."""
    runs = (run.lstrip("0") if run.isdecimal() else run.casefold() for run in _RUN.findall(text))
    return f"/{'/'.join(runs)}/"


def _choose_fields(drafted: Draft, cells: dict[str, dict[str, list[int]]]) -> None:
    marks = [found.decimal for column in cells if (found := _read(drafted, column, cells[column])) is not None]
    if "," in marks:
        drafted.decimal = ","
    elif "." in marks:
        drafted.decimal = "."
    used = {drafted.patient, drafted.study, *drafted.matching.columns}
    patients = cells[drafted.patient] if drafted.patient is not None else {}
    patient_of = {row: text for text, rows in patients.items() for row in rows}
    names: set[str] = set()
    for n, (column, texts) in enumerate(cells.items(), start=1):
        if column in used and column_names.role_of(column) not in _NAMED_BY_ROLE:
            continue
        if not texts:
            drafted.left_out[column] = "blank"
            continue
        role = column_names.role_of(column)
        # Resuscitation is a fact, and a Danish number of persons is not: both are called cpr.
        if role in LEFT_OUT and column_names.may_be_answered(column) and column_values.is_yes_and_no(texts):
            role = None
        if role in LEFT_OUT:
            drafted.left_out[column] = str(role)
            if role in (Role.NAME, Role.NUMBER):
                drafted.hashed |= _name_patients(drafted, texts, words=role is Role.NAME)
            continue
        reading = _read(drafted, column, texts)
        if reading is None:
            drafted.left_out[column] = "nothing known"
            continue
        if role in (Role.PATIENT, Role.STUDY) or _is_number(column, reading, texts, patient_of):
            reading.left_out = "numbers of persons or documents"
        elif reading.left_out is None:
            reading.left_out = identifying.why_left_out(texts, reading, column, patient_of)
        if reading.left_out is not None:
            drafted.left_out[column] = reading.left_out
            if reading.left_out in identifying.OF_PEOPLE:
                drafted.hashed |= _name_patients(drafted, texts, words=True)
            continue
        if reading.type in (FieldType.INTEGER, FieldType.FLOAT) and reading.unit is None:
            reading.unit = column_names.unit_of(column)
        name = _field_name(column, n, role, names)
        names.add(name)
        drafted.fields.append(DraftedField(name, column, reading, column_names.is_outcome(column)))


def _read(drafted: Draft, column: str, texts: Cells) -> Reading | None:
    is_place = column_names.role_of(column) is Role.SITE
    is_date = column_names.says_date(column)
    return column_values.read(texts, is_date, drafted.decimal, is_place, drafted.calendar)


def _is_number(column: str, reading: Reading, texts: Cells, patient_of: Mapping[int, str]) -> bool:
    """Whether whole numbers or words count persons or documents and measure nothing."""
    if not column_names.is_number_of_something(column) or reading.type not in (FieldType.INTEGER, FieldType.KEYWORD):
        return False
    if not patient_of:
        return not identifying.is_shared(texts)
    return len(texts) >= len({patient_of.get(row, row) for rows in texts.values() for row in rows}) / 2


def _field_name(column: str, n: int, role: Role | None, taken: set[str]) -> str:
    name = str(role) if role in _NAMED_BY_ROLE and str(role) not in taken else column_names.field_name(column)
    name = name or f"column_{n}"
    if name in SYSTEM_FIELDS:
        name = f"{name}_in_table"
    several, stem = 1, name
    while name in taken:
        several += 1
        name = f"{stem}_{several}"
    return name


def rows_text(rows: Sequence[int]) -> str:
    """``row 40``, ``rows 2, 5, 9 and 12 more``."""
    shown = ", ".join(map(str, rows[:_SHOWN_ROWS]))
    more = f" and {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def relative(path: Path, folder: Path) -> str:
    """A path as a mapping has it: relative to a folder, with forward slashes."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
