"""Tables that are no text: workbooks (.xlsx, .xlsm, .xlsb, .xls, .ods) and Parquet files -> rows of texts.

A cell becomes what a person sees in it: a whole number without decimals, a date as ISO 8601 has it.
"""

from __future__ import annotations

import datetime
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrsearch.errors import MappingError, UsageError
from cxrsearch.text import nearest
from indexer import extent

WORKBOOKS = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"})
PARQUET = ".parquet"
# What a workbook of a few kilobytes may unpack to before it is taken for an attack.
_LARGEST_UNPACKED = 2**30
# Of a workbook's description the part that says by which calendar it counts days.
_START = 2**20
_FROM_1904 = re.compile(rb"""<(?:\w+:)?workbookPr\b[^>]*\bdate1904\s*=\s*["'](?:1|true|on)["']""")
# Beyond it a float has no exact whole number.
_EXACT = 2.0**53


def is_sheet(path: Path) -> bool:
    return path.suffix.lower() in WORKBOOKS | {PARQUET}


def sheet_names(path: Path) -> list[str]:
    """The names of the sheets of a workbook that are not hidden, or of all where all are; none of a Parquet file.

    Raises MappingError.
    """
    return [] if path.suffix.lower() == PARQUET else _seen(_workbook(path))


def rows(path: Path, sheet: str | None) -> Iterator[list[str]]:
    """The rows of a sheet, the first one by default, or of a Parquet file, from row 1 on, all of one length.

    Raises MappingError for a file that is none or a sheet that is not there, UsageError where pyarrow is missing.
    """
    return _parquet(path) if path.suffix.lower() == PARQUET else _sheet(path, sheet)


def calendar(path: Path) -> str | None:
    """By which of SERIAL_DATES a workbook of Excel counts days; None where it does not say, as .xls and .ods do not."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("xl/workbook.xml") as part:
            start = part.read(_START)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError):
        return None
    return "excel-1904" if _FROM_1904.search(start) else "excel"


def _workbook(path: Path) -> Any:
    from python_calamine import CalamineError, load_workbook

    try:
        _check_unpacked(path)
        if extent.is_too_large(path):
            what = "a cell lies far below or right of the table; delete it, or save as CSV"
            raise MappingError(f"{path.name}: {what}")
        return load_workbook(path)
    except CalamineError:
        # The library's own words may quote the file.
        raise MappingError(f"{path.name}: no workbook that can be read. Is it protected by a password?") from None


def _seen(workbook: Any) -> list[str]:
    from python_calamine import SheetVisibleEnum

    seen = [one.name for one in workbook.sheets_metadata if one.visible == SheetVisibleEnum.Visible]
    return seen or list(workbook.sheet_names)


def _sheet(path: Path, sheet: str | None) -> Iterator[list[str]]:
    from python_calamine import CalamineError

    workbook = _workbook(path)
    names = list(workbook.sheet_names)
    if not names:
        raise MappingError(f"{path.name}: a workbook without sheets")
    if sheet is not None and sheet not in names:
        raise MappingError(f"{path.name}: no sheet {sheet!r}.{nearest(sheet, names)} It has {len(names)}.")
    try:
        read = workbook.get_sheet_by_name(sheet if sheet is not None else names[0])
    except CalamineError:
        raise MappingError(f"{path.name}: the sheet cannot be read; save the workbook again, or as CSV") from None
    before = [""] * (read.start[1] if read.start is not None else 0)
    blank = [""] * (len(before) + read.width)
    # Row by row: a list of all would take twice the library's own memory.
    for cells in read.iter_rows():
        yield [*before, *map(text_of, cells)] if any(cell != "" for cell in cells) else blank


def _parquet(path: Path) -> Iterator[list[str]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(f"{path.name}: Parquet needs pyarrow: pip install 'cxrsearch[analysis]', or use CSV") from None
    try:
        with parquet.ParquetFile(path) as file:
            yield list(map(str, file.schema_arrow.names))
            for batch in file.iter_batches(10_000):
                columns = [column.to_pylist() for column in batch.columns]
                yield from ([text_of(column[n]) for column in columns] for n in range(batch.num_rows))
    except (pyarrow.ArrowException, OSError):
        raise MappingError(f"{path.name}: no Parquet file that can be read") from None
    except (ValueError, OverflowError):  # a moment that Python has no date for
        raise MappingError(
            f"{path.name}: a date out of the years 1 to 9999; correct it, or save the table as CSV"
        ) from None


def text_of(cell: Any) -> str:
    """A cell as text; empty where there is none."""
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case float():
            if math.isnan(cell):
                return ""
            return str(int(cell)) if cell.is_integer() and abs(cell) < _EXACT else repr(cell)
        case datetime.datetime():
            day = cell.date().isoformat()
            return day if cell.time() == datetime.time() else f"{day} {cell.time().isoformat('seconds')}"
        case datetime.date() | datetime.time():
            return cell.isoformat()
        case list() if not any(isinstance(part, list | tuple | dict) for part in cell):
            return "; ".join(map(text_of, cell))
        case bytes() | list() | tuple() | dict():
            return ""  # what no cell of a table holds
    return str(cell)


def _check_unpacked(path: Path) -> None:
    """Raises MappingError for an archive that says it unpacks to more than any table has."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        return  # .xls is no archive, and what else is none the library refuses
    if size > _LARGEST_UNPACKED:
        raise MappingError(f"{path.name}: unpacks to more than {_LARGEST_UNPACKED // 2**20} MiB; save it as CSV")
