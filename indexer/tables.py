"""A table of a dataset -> its rows, read strictly (RFC 4180 in any dialect): no row is shifted or lost without a word.

A lenient reader shifts the facts of a row that has a comma too many, and takes rows into a cell whose quote is never
closed. Here both are errors that name the line, and a cell that runs over several lines is counted.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cxrsearch.errors import MappingError
from cxrsearch.text import nearest, tidy
from indexer import sheets
from indexer.dialect import Dialect, marked_encoding

# A million patients with a hundred facts each fit; a cell of a gigabyte, or ten million columns, do not.
_LARGEST = 512 * 2**20
_LONGEST_HEADER = 2**20
# Faults of a kind that are named before the rest is only counted.
SHOWN = 3
# What a strict reader stops at is a quote, or a cell that looks as if one were never closed.
_QUOTES = {
    "unexpected end of data": 'a quote (") that opens here is never closed',
    "field larger": f'a cell of more than {csv.field_size_limit():,} characters begins here: a quote (") in it is never'
    " closed, or its text is too long for a table",
    "expected after": 'text follows a closing quote ("); a quote inside a cell is written twice ("")',
}


# The number of a record's first line, its cells, and the text of the lines that it runs on over.
Record = tuple[int, list[str], list[str]]


@dataclass(frozen=True)
class Line:
    """A row of a table. number: as a spreadsheet counts, 2 for the first after the header; cells: by column, as they
    are in the file."""

    number: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table that was read whole.

    rows: with the columns that were asked for.
    blank: how many rows have nothing in any cell.
    running: first and last line of each row whose cells run over several.
    inside: lines within such a row that would be rows themselves, by their number in the file.
    """

    name: str
    rows: list[Line]
    blank: int
    running: list[tuple[int, int]]
    inside: list[Line]


def read_table(path: Path, dialect: Dialect, wanted: Mapping[str, str], dataset: str) -> Table:
    """The table at ``path``. ``wanted``: columns by the key of the mapping that names them.

    Raises MappingError, which names the line or the column that is wrong.
    """
    with closing(_opened(path, dialect)) as records:
        return _read(records, path, dialect, wanted, dataset)


def read_header(path: Path, dialect: Dialect) -> list[str]:
    """The names of the columns, tidy, in their order. Raises MappingError."""
    with closing(_opened(path, dialect)) as records:
        return list(map(tidy, _header(records, path.name, dialect)))


def _opened(path: Path, dialect: Dialect) -> Generator[Record, None, None]:
    """The records of a table's file, whatever it is written in."""
    try:
        if path.stat().st_size > _LARGEST:
            raise MappingError(f"{path.name}: larger than {_LARGEST // 2**20} MiB; split the table")
        if sheets.is_sheet(path):
            for number, cells in enumerate(sheets.rows(path, dialect.sheet), start=1):
                yield number, cells, []
            return
        with path.open(encoding=dialect.encoding, newline="") as file:
            if len(file.readline(_LONGEST_HEADER + 1)) > _LONGEST_HEADER:
                limit = _LONGEST_HEADER // 2**20
                raise MappingError(f"{path.name}: its first line is longer than {limit} MiB; not a table")
            file.seek(0)
            yield from _records(file, path.name, dialect.separator_of(path), dialect.quote)
    except (UnicodeError, LookupError):
        with path.open("rb") as file:
            marked = marked_encoding(file.read(4))
        if marked is not None and marked not in ("utf-8-sig", dialect.encoding):
            raise MappingError(f'{path.name}: {marked.upper()}; set images.encoding = "{marked}"') from None
        what = f"{path.name}: not text in {dialect.encoding}; set images.encoding (latin-1 is common)"
        raise MappingError(what) from None
    except OSError as error:
        raise MappingError(f"{path.name}: cannot be read ({error.strerror})") from None


def _header(records: Iterator[Record], name: str, dialect: Dialect) -> list[str]:
    _, header, _ = next(islice(records, dialect.skip, None), (1, [], []))
    if not any(map(tidy, header)):
        which = f"row {dialect.skip + 1}" if dialect.skip else "its first line"
        raise MappingError(f"{name}: not a table that can be read: {which} names no columns")
    return header


def _read(records: Iterator[Record], path: Path, dialect: Dialect, wanted: Mapping[str, str], dataset: str) -> Table:
    header = _header(records, path.name, dialect)
    columns = _columns(path.name, header, wanted, dataset)
    rows, running, inside, ragged, blank = [], [], [], [], 0
    for number, (line, cells, more) in enumerate(records, start=dialect.skip + 2):
        if not any(map(tidy, filter(None, cells))):
            blank += 1
            continue
        if len(cells) != len(header):
            ragged.append(f"line {line} has {len(cells)}")
            continue
        rows.append(Line(number, {name: cells[n] for name, n in columns.items()}))
        if more:
            running.append((line, line + len(more)))
        for n, text in enumerate(more, start=line + 1):
            alone = next(csv.reader([text], delimiter=dialect.separator_of(path), quotechar=dialect.quote), [])
            if len(alone) == len(header):
                inside.append(Line(n, {name: alone[at] for name, at in columns.items()}))
    if ragged:
        rest = f" and {len(ragged) - SHOWN} more" if len(ragged) > SHOWN else ""
        raise MappingError(
            f"{path.name}: the {'first line' if not dialect.skip else 'header'} has {len(header)} cells, but"
            f" {', '.join(ragged[:SHOWN])}{rest}.\n"
            "  Take out what is too many or add what is missing; a cell that holds the separator needs quotes."
        )
    return Table(path.name, rows, blank, running, inside)


def _records(file: Iterator[str], name: str, delimiter: str, quote: str) -> Iterator[Record]:
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for text in file:
            taken.append(text)
            yield text

    reader = csv.reader(lines(), delimiter=delimiter, quotechar=quote, strict=True)
    first = 1
    try:
        for cells in reader:
            yield first, cells, taken[1:]
            first += len(taken)
            taken.clear()
    except csv.Error as error:
        what = next((words for sign, words in _QUOTES.items() if sign in str(error)), str(error))
        raise MappingError(f"{name}: line {first}: {what}") from None


def _columns(table: str, header: list[str], wanted: Mapping[str, str], dataset: str) -> dict[str, int]:
    """Where each wanted column is."""
    known = list(map(tidy, header))
    for place, column in wanted.items():
        if column not in known:
            # Of its own first line no more than a name much like the one wanted: a table may be any file.
            raise MappingError(
                f"{dataset}: {place}: {table} has no column {column!r}.{nearest(column, known)} It has {len(known)}."
            )
        if known.count(column) > 1:
            raise MappingError(f"{dataset}: {place}: {table} has {known.count(column)} columns {column!r}; rename one")
    return {column: known.index(column) for column in wanted.values()}
