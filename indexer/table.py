"""A table of a dataset -> its rows, read strictly (RFC 4180): no row is shifted or lost without a word.

A lenient reader shifts the facts of a row that has a comma too many, and takes rows into a cell whose quote is never
closed. Here both are errors that name the line, and a cell that runs over several lines is counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cxrsearch.errors import MappingError
from cxrsearch.text import nearest, tidy

# A million patients with a hundred facts each fit; a cell of a gigabyte, or ten million columns, do not.
_LARGEST = 512 * 2**20
_LONGEST_HEADER = 2**20
# Faults of a kind that are named before the rest is only counted.
SHOWN = 3
# What a strict reader stops at is always a quote.
_QUOTES = {
    "unexpected end of data": 'a quote (") that opens here is never closed',
    "field larger": 'a quote (") that opens here is never closed',
    "expected after": 'text follows a closing quote ("); a quote inside a cell is written twice ("")',
}


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


def read_table(path: Path, encoding: str, wanted: Mapping[str, str], dataset: str) -> Table:
    """The table at ``path``. ``wanted``: columns by the key of the mapping that names them.

    Raises MappingError, which names the line or the column that is wrong.
    """
    try:
        _check_size(path)
        with path.open(encoding=encoding, newline="") as file:
            return _read(file, path, wanted, dataset)
    except (UnicodeError, LookupError):
        raise MappingError(f"{path.name}: not text in {encoding}; set images.encoding (latin-1 is common)") from None
    except OSError as error:
        raise MappingError(f"{path.name}: cannot be read ({error.strerror})") from None


def _read(file: Iterator[str], path: Path, wanted: Mapping[str, str], dataset: str) -> Table:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    records = _records(file, path.name, delimiter)
    _, header, _ = next(records, (1, [], []))
    if not any(map(tidy, header)):
        raise MappingError(f"{path.name}: not a table that can be read: its first line names no columns")
    columns = _columns(path.name, header, wanted, dataset)
    rows, running, inside, ragged, blank = [], [], [], [], 0
    for number, (line, cells, more) in enumerate(records, start=2):
        if not any(map(tidy, cells)):
            blank += 1
            continue
        if len(cells) != len(header):
            ragged.append(f"line {line} has {len(cells)}")
            continue
        rows.append(Line(number, {name: cells[n] for name, n in columns.items()}))
        if more:
            running.append((line, line + len(more)))
        for n, text in enumerate(more, start=line + 1):
            alone = next(csv.reader([text], delimiter=delimiter), [])
            if len(alone) == len(header):
                inside.append(Line(n, {name: alone[at] for name, at in columns.items()}))
    if ragged:
        rest = f" and {len(ragged) - SHOWN} more" if len(ragged) > SHOWN else ""
        raise MappingError(
            f"{path.name}: the first line has {len(header)} cells, but {', '.join(ragged[:SHOWN])}{rest}.\n"
            "  Take out what is too many or add what is missing; a cell that holds a comma needs quotes."
        )
    return Table(path.name, rows, blank, running, inside)


def _records(file: Iterator[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """The number of a record's first line, its cells, and the text of the lines that it runs on over."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for text in file:
            taken.append(text)
            yield text

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
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


def _check_size(path: Path) -> None:
    """Raises MappingError for a table that would take the memory of the machine."""
    if path.stat().st_size > _LARGEST:
        raise MappingError(f"{path.name}: larger than {_LARGEST // 2**20} MiB; split the table")
    with path.open("rb") as file:
        if len(file.readline(_LONGEST_HEADER + 1)) > _LONGEST_HEADER:
            limit = _LONGEST_HEADER // 2**20
            raise MappingError(f"{path.name}: its first line is longer than {limit} MiB; not a table")
