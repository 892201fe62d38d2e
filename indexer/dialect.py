"""How a table's file is written: encoding, separator, quote, which sheet, where the header is.

A mapping says it; :func:`detect` finds it out for a draft of one. What is found out is what the strict reader of
tables.py can read: each candidate is tried on the file's beginning, and rows of one length decide.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from cxrsearch.errors import MappingError
from cxrsearch.text import tidy
from indexer import sheets

SEPARATORS = (",", ";", "\t", "|")
QUOTES = ('"', "'")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What spreadsheets of this world still write; cp1252 first, which most do.
_LEGACY = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "mac_roman", "shift_jis", "gb18030", "euc_kr", "big5"]
# Of cp1252, what western tables have beside ASCII; each stands among ASCII letters, which tells it from Cyrillic.
_WESTERN = frozenset("äöüÄÖÜßéèêëàâáçñóòôíìîïúùûÉÈÀÇÑåøæÅØÆœ°µ§²³±—€„“”«»\u00a0".encode("cp1252"))
_SAMPLE_BYTES = 2**18
_SAMPLE_ROWS = 200
# Control characters beside tabs and line ends, and the part of a file's bytes above which it is no text.
_CONTROLS, _NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]"), 0.05
# Parts of the header's cells that have to be filled: above it people write titles.
_FILLED = 0.6


@dataclass(frozen=True)
class Dialect:
    """How a table's file is written.

    encoding, separator, quote: of text; separator None is a tab in a .tsv file, else a comma.
    sheet: of a workbook, None its first.
    skip: rows above the one that names the columns.
    """

    encoding: str = "utf-8-sig"
    separator: str | None = None
    quote: str = '"'
    sheet: str | None = None
    skip: int = 0

    def separator_of(self, path: Path) -> str:
        return self.separator or ("\t" if path.suffix.lower() == ".tsv" else ",")


@dataclass(frozen=True)
class Detected:
    """A dialect, and whether its encoding is only likely: bytes of an old code page say not which one it is."""

    dialect: Dialect
    guessed: bool = False


def detect(path: Path, sheet: str | None = None) -> Detected:
    """The dialect of the table at ``path``. ``sheet``: the one that is wanted, else the one of most rows.

    Raises MappingError for a file that cannot be read.
    """
    try:
        if sheets.is_sheet(path):
            return Detected(_of_sheets(path, sheet))
        with path.open("rb") as file:
            start = file.read(_SAMPLE_BYTES)
            encoding, guessed = _encoding(start, file.read)
    except OSError as error:
        raise MappingError(f"{path.name}: cannot be read ({error.strerror})") from None
    if not encoding.startswith(("utf-16", "utf-32")) and len(_CONTROLS.findall(start)) > _NO_TEXT * len(start):
        raise MappingError(f"{path.name}: no table, nor any text; name the CSV, Excel or Parquet file of your images")
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start)
    if len(start) == _SAMPLE_BYTES:
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]  # the last line is cut
    separator, quote, skip = _shape(text)
    usual = Dialect(encoding).separator_of(path)
    return Detected(Dialect(encoding, None if separator == usual else separator, quote, None, skip), guessed)


def _of_sheets(path: Path, sheet: str | None) -> Dialect:
    if sheet is not None or len(names := sheets.sheet_names(path)) < 2:
        return Dialect(sheet=sheet, skip=_skip(list(islice(sheets.rows(path, sheet), _SAMPLE_ROWS))))
    filled = {name: sum(any(map(tidy, filter(None, cells))) for cells in sheets.rows(path, name)) for name in names}
    best = max(names, key=lambda name: filled[name])  # the first of equals
    dialect = _of_sheets(path, best)
    return replace(dialect, sheet=None) if best == names[0] else dialect


def marked_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark at a file's beginning says, None where there is none."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), None)


def _encoding(start: bytes, more: Callable[[int], bytes]) -> tuple[str, bool]:
    """The encoding of a file that begins so, and whether it is only likely."""
    if (marked := marked_encoding(start)) is not None:
        return marked, False
    for name, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if start and zeros.count(0) > len(zeros) // 2:
            return name, False
    decoder, part = codecs.getincrementaldecoder("utf-8")(), start
    try:
        while part:
            decoder.decode(part)
            part = more(2**20)
        decoder.decode(b"", final=True)
        return "utf-8-sig", False
    except UnicodeDecodeError:
        pass
    sample = start + part
    if {byte for byte in sample if byte > 0x7F} <= _WESTERN and not re.search(rb"[\x80-\xff]{3}", sample):
        return "cp1252", True
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=_LEGACY, threshold=0.5).best()
    if best is None:
        return "cp1252", True
    # Where several pages give the same letters, the more common one.
    text = start.decode(best.encoding, "replace")
    return next(name for name in [*_LEGACY, best.encoding] if start.decode(name, "replace") == text), True


def _shape(text: str) -> tuple[str, str, int]:
    """Separator, quote and rows above the header, of those whose rows are most often of the header's length."""
    ranked = []
    for separator in SEPARATORS:
        for quote in QUOTES:
            rows = _rows(text, separator, quote)
            skip = _skip(rows)
            # Titles count against it: else a first row with decimal commas is a header below one title.
            widths = Counter(len(cells) for cells in rows if any(map(tidy, cells)))
            width = len(rows[skip]) if skip < len(rows) else 0
            part = widths[width] / max(1, widths.total())
            ranked.append(((width > 1, part, width), separator, quote, skip))
    _, separator, quote, skip = max(ranked, key=lambda one: one[0])  # the first of equals
    return separator, quote, skip


def _rows(text: str, separator: str, quote: str) -> list[list[str]]:
    """The first rows, as far as they can be read so."""
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quotechar=quote, strict=True)
    with contextlib.suppress(csv.Error):
        for cells in islice(reader, _SAMPLE_ROWS):
            rows.append(cells)
    return rows


def _skip(rows: Sequence[Sequence[str]]) -> int:
    """How many rows stand above the header: titles fill few cells of the usual width."""
    filled = [sum(bool(tidy(cell)) for cell in cells) for cells in rows]
    usual = Counter(len(cells) for cells, number in zip(rows, filled, strict=True) if number).most_common(1)
    needed = max(1, _FILLED * usual[0][0]) if usual else 1
    return next((n for n, number in enumerate(filled) if number >= needed), 0)
