"""How far the cells of a workbook reach: the library that reads one makes room for all that lies between them.

A space that somebody typed into the last row of a sheet costs gigabytes there, and in .ods minutes. Cells are looked
for in every part of the file that may be a sheet, whatever it is called.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast
from xml.parsers import expat

# Cells of the rectangle around all that a sheet holds, 32 bytes each: in any sheet, and in one where most are blank.
_LARGEST, _LARGEST_SPARSE = 2**26, 2**24
# Of a rectangle the part that has cells, below which most are blank.
_SPARSE = 1 / 8
_PLACE = re.compile(rb"""\br=["']([A-Z]{1,3})([0-9]{1,7})["']""")
_PIECE = 2**20
_ODS = "urn:oasis:names:tc:opendocument:xmlns:table:1.0"
_ODS_VALUE = "urn:oasis:names:tc:opendocument:xmlns:office:1.0"
# Records of a binary sheet (MS-XLSB 2.3): BrtBeginSheet, with which each begins; BrtRowHdr; cells that hold something.
_BINARY_SHEET, _BINARY_ROW, _BINARY_CELLS = b"\x81\x01", 0, range(2, 12)


@dataclass
class Extent:
    """Of a sheet, in rows and columns from its corner; cells: how many the file has."""

    rows: int = 0
    columns: int = 0
    cells: int = 0

    def take(self, rows: int, columns: int) -> None:
        self.rows, self.columns = max(self.rows, rows), max(self.columns, columns)

    @property
    def is_too_large(self) -> bool:
        area = self.rows * self.columns
        return area > _LARGEST or (area > _LARGEST_SPARSE and self.cells < _SPARSE * area)


def is_too_large(path: Path) -> bool:
    """Whether no memory, or patience, holds what lies between the cells of a workbook. False for a file that cannot be
    read, of which the library says what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(
                one.is_too_large
                for name in archive.namelist()
                for one in _sheets(name, io.BufferedReader(cast(io.RawIOBase, archive.open(name)), _PIECE))
            )
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, OSError, NotImplementedError, RuntimeError):
        return False


def _sheets(name: str, part: IO[bytes]) -> list[Extent]:
    with part:
        if name == "content.xml":
            return _of_open_document(part)
        if name.lower().endswith(".bin"):
            return [_of_binary(part)]
        return [_of_xml(part)] if name.lower().endswith(".xml") else []


def _of_xml(part: IO[bytes]) -> Extent:
    found, columns, before = Extent(), set[bytes](), b""
    while piece := part.read(_PIECE):
        text = before + piece
        for cell in _PLACE.finditer(text):
            columns.add(cell[1])
            found.rows = max(found.rows, int(cell[2]))
            found.cells += 1
        before = piece[-32:]
    found.columns = max(map(_number, columns), default=0)
    return found


def _number(column: bytes) -> int:
    """26 of Z, 27 of AA."""
    number = 0
    for letter in column:
        number = number * 26 + letter - ord("A") + 1
    return number


def _of_binary(part: IO[bytes]) -> Extent:
    found, row = Extent(), 0
    if part.read(2) != _BINARY_SHEET:
        return found
    part.read(_size(part))
    while first := part.read(1):
        kind = first[0] if first[0] < 0x80 else first[0] & 0x7F | (_byte(part) & 0x7F) << 7
        body = part.read(_size(part))
        if kind == _BINARY_ROW:
            row = int.from_bytes(body[:4], "little")
        elif kind in _BINARY_CELLS:
            found.take(row + 1, int.from_bytes(body[:4], "little") + 1)
            found.cells += 1
    return found


def _byte(part: IO[bytes]) -> int:
    return (part.read(1) or b"\0")[0]


def _size(part: IO[bytes]) -> int:
    """Of a record, seven bits to a byte, at most four."""
    size = 0
    for n in range(4):
        byte = _byte(part)
        size |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            break
    return size


def _of_open_document(part: IO[bytes]) -> list[Extent]:
    tables = _Tables()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = tables.start, tables.end
    parser.ParseFile(part)
    return tables.found


@dataclass
class _Tables:
    """The tables of an OpenDocument file, in which one cell or row may stand for many."""

    found: list[Extent] = field(default_factory=list)
    row: int = 0
    column: int = 0
    is_filled: bool = False
    repeated: int = 1

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == f"{_ODS} table":
            self.found.append(Extent())
            self.row = 0
        elif name == f"{_ODS} table-row":
            self.column, self.is_filled = 0, False
            self.repeated = _count(attributes.get(f"{_ODS} number-rows-repeated"))
        elif name in (f"{_ODS} table-cell", f"{_ODS} covered-table-cell") and self.found:
            self.column += _count(attributes.get(f"{_ODS} number-columns-repeated"))
            if any(key.startswith(_ODS_VALUE) for key in attributes):
                self.is_filled = True
                self.found[-1].take(0, self.column)
                self.found[-1].cells += 1

    def end(self, name: str) -> None:
        if name == f"{_ODS} table-row" and self.found:
            self.row += self.repeated
            if self.is_filled:
                self.found[-1].take(self.row, 0)


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 12 else 1
