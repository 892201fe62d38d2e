"""What init prints: fields, the first rows with their images, and what fits not between table and folder."""

from __future__ import annotations

import logging
import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cxrsearch.cli import index_output
from cxrsearch.cli.logging_options import LOGGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cxrsearch.report.show import Captioned
    from indexer.dataset import Dataset
    from indexer.draft import Draft
    from indexer.record import Record

log = logging.getLogger(LOGGER)
_ROWS = 10
_COLUMNS = 7  # beside the image
_NAMES = 3


def describe(drafted: Draft, data: Dataset) -> None:
    """Everything that somebody should look at before the dataset is indexed."""
    from indexer.draft import rows_text
    from indexer.folder import is_file

    index_output.describe(data)
    print()
    _first_rows(drafted, data)
    matching = drafted.matching
    by = " and ".join(matching.columns)
    print(f"{len(matching.found)} of {len(drafted.rows.rows)} rows name an image, by column {by}")
    # Rows that contradict each other name an image all the same, and are counted below.
    without = sorted(
        r.row or 0
        for r in data.records()
        if r.key not in data.contradictions and (r.problem is not None or not is_file(r.path))
    )
    if without:
        print(f"{len(without)} rows have no image: {rows_text(without)}")
    if matching.unnamed:
        names = "" if drafted.hashed else f": {', '.join(matching.unnamed[:_NAMES])}"
        more = ", ..." if names and len(matching.unnamed) > _NAMES else ""
        print(f"{len(matching.unnamed)} images have no row{names}{more}")
    index_output.count_rows(data)
    for column, why in drafted.left_out.items():
        log.warning(f"note: column {column} is left out: {why}")
    if drafted.patient is None:
        log.warning("note: no column of patient numbers was found: a search cannot leave the own patient out")
    elif drafted.numbers[1]:
        log.warning(
            f"note: {drafted.numbers[1]} patient numbers are written as 1E+05, have lost digits, and are missing"
        )
    if drafted.hashed:
        what = "note: names of files hold numbers or names of patients, so the index keeps tokens of them"
        log.warning(f'{what} (paths = "hashed")')
    if drafted.detected.guessed:
        log.warning(f"note: {drafted.table.name} is no UTF-8; read as {drafted.detected.dialect.encoding}")
    for field in drafted.fields:
        for note in field.reading.notes:
            log.warning(f"note: field {field.name}: {note}")
    index_output.warn(data)


def next_commands(mapping: Path, index: str | None) -> None:
    """How to go on."""
    print(f"\nwrote {mapping}. Check it, then:")
    print(f"  cxrsearch index {shlex.quote(str(mapping))} --index {shlex.quote(index or 'chest')}")


def _first_rows(drafted: Draft, data: Dataset) -> None:
    from cxrsearch.report import show
    from cxrsearch.report.columns import choose, headings
    from cxrsearch.report.rows import write_table

    records, fields = list(islice(data.records(), _ROWS)), data.mapping.declared
    facts = choose(fields, [record.payload for record in records])[:_COLUMNS]
    rows = [
        {"#": number, "row": record.row, "image": record.key, **record.payload}
        for number, record in enumerate(records, start=1)
    ]
    columns = ["#", "row", *([] if drafted.hashed else ["image"]), *facts]
    title = f"the first {len(rows)} of {len(data)} images"
    write_table(rows, columns, title, optional=facts, headings=headings(fields))
    if sys.stdout.isatty():
        show.show(list(_thumbnails(records)), sys.stdout)
    print()


def _thumbnails(records: list[Record]) -> Iterator[Captioned]:
    from cxrsearch.errors import ImageError
    from cxrsearch.imaging import isolated
    from cxrsearch.imaging.canonical import grey
    from cxrsearch.store.images import SHOWN

    for number, record in enumerate(records, start=1):
        try:
            yield grey(isolated.read(record.path)[0], SHOWN), str(number)
        except (ImageError, OSError):
            yield None, str(number)
