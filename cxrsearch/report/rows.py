"""Rows in one of the four formats every command prints: table, json, jsonl, csv."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TextIO

from cxrsearch.text import clean

# Cells that begin so are run as formulas by spreadsheets; a leading quote makes them text.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# A spreadsheet whose separator is a semicolon begins a cell there, whatever quotes stand around.
_FORMULA_INSIDE = re.compile(r";(?=[+-])|;\s*(?=[=@])")
# Wide enough that nothing is cut in a table that goes into a file or a pipe, where nothing has a width of its own.
_PIPED_WIDTH = 10_000
# Width up to which such a table takes optional columns.
_READABLE_WIDTH = 120
_BETWEEN_COLUMNS = 3


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


Row = Mapping[str, Any]


def write(
    rows: Sequence[Row],
    columns: Sequence[str],
    format: Format,
    *,
    cells: Sequence[Row] | None = None,
    whole: Any = None,
    title: str = "",
    optional: Sequence[str] = (),
    headings: Mapping[str, str] | None = None,
) -> None:
    """Print rows to stdout. cells: what a table shows in their stead; whole: what JSON gives in their stead; optional,
    headings: as in :func:`write_table`."""
    match format:
        case Format.TABLE:
            write_table(rows if cells is None else cells, columns, title, None, optional, headings)
        case Format.JSON:
            write_json(rows if whole is None else whole, sys.stdout)
        case Format.JSONL:
            write_jsonl(rows, sys.stdout)
        case Format.CSV:
            write_csv(rows, columns, sys.stdout)


def write_csv(rows: Iterable[Row], columns: Sequence[str], stream: TextIO, header: bool = True) -> None:
    """Missing cells are empty; several values are joined by ``; ``; formulas are disarmed."""
    writer = csv.writer(stream, lineterminator="\n")
    if header:
        writer.writerow([_csv_cell(column) for column in columns])
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)


def write_jsonl(rows: Iterable[Row], stream: TextIO) -> None:
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=not _has_all(stream), default=str) + "\n")


def write_json(value: Any, stream: TextIO) -> None:
    json.dump(value, stream, ensure_ascii=not _has_all(stream), indent=2, default=str)
    stream.write("\n")


def _has_all(stream: TextIO) -> bool:
    """Whether every character can be written to a stream; where not, JSON has its own way to say them."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith(("utf-", "utf8"))


def write_table(
    rows: Iterable[Row],
    columns: Sequence[str],
    title: str = "",
    stream: TextIO | None = None,
    optional: Sequence[str] = (),
    headings: Mapping[str, str] | None = None,
) -> None:
    """A table for eyes; numbers to the right, missing cells blank, no markup from data.

    optional: columns of which the last ones go where all do not fit. headings: what stands above a column in place of
    its name. No word is parted between lines: one that is too long is cut. In a pipe nothing is cut or padded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream, headings = stream or sys.stdout, headings or {}
    console = Console(file=stream, width=None if stream.isatty() else _PIPED_WIDTH, highlight=False)
    shown = list(rows)
    kept = _fitting(shown, columns, optional, headings, console.width if stream.isatty() else _READABLE_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in kept:
        numbers = all(isinstance(row.get(column), int | float) for row in shown if row.get(column) is not None)
        heading = Text(clean(headings.get(column, column)))
        table.add_column(heading, justify="right" if numbers and shown else "left", overflow="ellipsis")
    for row in shown:
        table.add_row(*(Text(text_of(row.get(column))) for column in kept))
    if title:
        console.print(Text(clean(title)))
    if stream.isatty():
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    stream.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def _fitting(
    rows: Sequence[Row], columns: Sequence[str], optional: Sequence[str], headings: Mapping[str, str], width: int
) -> list[str]:
    """The columns that fit side by side; optional ones go from the last."""
    widths = {
        name: max(len(clean(headings.get(name, name))), *(len(text_of(row.get(name))) for row in rows), 0)
        for name in columns
    }
    kept = list(columns)
    for name in reversed([name for name in optional if name in columns]):
        if sum(widths[column] + _BETWEEN_COLUMNS for column in kept) <= width:
            break
        kept.remove(name)
    return kept


def text_of(value: Any) -> str:
    """One cell as plain text without control characters; empty when missing."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "; ".join(text_of(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"
    return clean(str(value))


def _csv_cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return _csv_cell("; ".join(_csv_cell(part) for part in value))
    text = "" if value is None else clean(str(value))
    text = _FORMULA_INSIDE.sub(r"\g<0>'", text)
    return "'" + text if text.startswith(_FORMULA_STARTS) else text
