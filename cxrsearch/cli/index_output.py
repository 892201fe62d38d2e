"""What index prints: notes before it begins, a dry run, and what became of every file and row."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cxrsearch.cli.logging_options import LOGGER

if TYPE_CHECKING:
    from indexer.dataset import Dataset
    from indexer.patient_numbers import PatientNumbers
    from indexer.summary import Summary

log = logging.getLogger(LOGGER)
# Pictures that are in the index more than once, and places of each, that the summary names.
_SHOWN_PLACES = 5
# Files on several rows that are named; the rest is in the list of rejected files.
_SHOWN_ROWS = 5
# Characters of one of the most common values.
_LONGEST_VALUE = 30
# Columns of a terminal below which these take the room of the names.
_NARROW = 60


def warn(data: Dataset) -> None:
    """What the security officer would want to be told before it happens."""
    from cxrsearch.clinical.fields import FieldType

    mapping = data.mapping
    texts = [name for name, mapped in mapping.fields.items() if mapped.type is FieldType.TEXT]
    if texts and mapping.privacy.free_text:
        log.warning(
            f"note: free text ({', '.join(texts)}) enters the index as it is, names and all (docs/how-to/privacy.md)"
        )
    elif texts:
        log.warning(f"note: free text ({', '.join(texts)}) is left out; free_text = true under [privacy] lets it in")
    unread = [
        name for name, mapped in mapping.entering.items() if mapped.language is not None and name not in data.notes
    ]
    if unread:
        log.warning(
            f"note: what {', '.join(unread)} denies is not read, so that --where cannot say mentions:"
            " pip install 'cxrsearch[notes]'"
        )
    if mapping.identifiers:
        log.warning(f"note: {', '.join(mapping.identifiers)} can identify patients and enter the index")
    for name, number in data.unmatched.items():
        if number:
            log.warning(f"note: field {name}: {number} values do not match its pattern and are missing")
    for name, cells in data.unreadable.items():
        field = mapping.fields[name]
        first = f", the first in row {min(cells)} of column {field.column}" if data.table is not None else ""
        key = "formats, values or missing" if field.type is FieldType.DATE else "values or missing"
        what = f"{len(cells)} cells are no {field.type} and are missing{first}"
        log.warning(f"note: field {name}: {what}; correct them, or say under {key} what they are")
    for found in [str(found) for found in data.contradictions.values()][:_SHOWN_ROWS]:
        log.warning(f"note: {found}; the file is rejected until they agree, or [select] takes one")
    if data.numbers is not None:
        _warn_of_numbers(data.numbers)
    if data.repeated:
        shown = "; ".join(", ".join(map(str, rows)) for rows in data.repeated[:_SHOWN_ROWS])
        log.warning(f"note: {len(data.repeated)} files are on several rows, whose facts are joined: rows {shown}")
    if data.table is not None and data.table.running:
        (line, last), number = data.table.running[0], len(data.table.running)
        log.warning(f"note: {number} rows run over several lines, the first over lines {line} to {last}")


def _warn_of_numbers(numbers: PatientNumbers) -> None:
    for rows, what in (
        (
            numbers.scientific,
            "are written as 1E+05 is and may have lost digits, so that several patients are taken for one; write them"
            " out in the table, or leave them out with pattern = '^(\\d+)$' under [patient]",
        ),
        (numbers.unmatched, "do not match the pattern of [patient] and are missing; correct them, or the pattern"),
        (
            numbers.zeros,
            "have the number of another row but for zeros in front, and are taken for another patient; pattern ="
            " '^0*(.+)$' under [patient] makes them one",
        ),
    ):
        if rows:
            where = f"column {numbers.column}, the first in row {rows[0]}"
            log.warning(f"note: patient: {len(rows)} cells of {where}, {what}")


def suggest_table(dataset: str) -> None:
    """A folder that is indexed without a mapping, and has a table beside its images: how their facts get in."""
    from indexer.mapping_file import init_command, tables_in

    if tables := tables_in(Path(dataset)):
        log.warning(f"note: no facts of {tables[0].name} get in without a mapping. {init_command(tables[0], dataset)}")


def describe(data: Dataset, limit: int | None = None) -> None:
    """What an index would be made of: coverage of each field, the first values, patients."""
    from collections import Counter
    from itertools import islice

    from cxrsearch.clinical.fields import values_of
    from cxrsearch.report.rows import text_of, write_table
    from indexer.folder import is_file

    records = list(islice(data.records(), limit))
    rows = []
    for name, field in data.mapping.declared.items():
        counts = Counter(value for record in records for value in values_of(record.payload, name))
        known = sum(name in record.payload for record in records)
        source = "read from each file" if data.mapping.fields[name].dicom else None
        common = ", ".join(f"{_short(text_of(value))} ({number})" for value, number in counts.most_common(4))
        rows.append({"field": name, "type": field.type, "images": source or known, "most common": common})
    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < _NARROW
    write_table(rows, ["field", "type", "images", *([] if narrow else ["most common"])])
    patients = {record.patient for record in records} - {None}
    missing = sum(1 for record in records if record.problem or not is_file(record.path))
    folder = os.path.normpath(data.root)
    print(f"{len(records)} images of {len(patients) or 'unknown'} patients in {folder}; {missing} files are missing")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def count_rows(data: Dataset) -> None:
    """What became of the rows of the table: together they are all of it."""
    if data.table is not None:
        counts = data.row_counts
        parts = ", ".join(f"{number} {what}" for what, number in counts.items())
        print(f"{sum(counts.values())} rows in {data.table.name}: {parts}")


def report(summary: Summary, rejected: Path) -> None:
    from cxrsearch.report.rows import text_of

    done = summary.indexed + summary.updated + summary.unchanged
    if summary.interrupted:
        log.warning(
            f"stopped: {done} of {summary.total} images are in the index, which can be used."
            " The same command goes on from here."
        )
    rate = f", {summary.indexed / summary.seconds:.0f} images/s" if summary.indexed and summary.seconds else ""
    print(
        f"{summary.indexed} indexed, {summary.updated} updated, {summary.unchanged} unchanged,"
        f" {summary.rejected.total()} rejected in {summary.seconds:.1f} s{rate}"
    )
    if summary.gone:
        what = "were deleted" if summary.pruned else "are still in the index; --prune deletes them"
        print(f"{summary.gone} images that the dataset no longer has {what}")
    if summary.absent:
        log.warning(
            f"{summary.absent} images are in none of the files and were left out, {text_of(summary.first_absent)} among"
            " them: embed the parts that are missing, or run this without --embeddings, which embeds them here"
        )
    if summary.forgotten:
        print(f"{summary.forgotten} files of forgotten patients were left out; --again takes them in")
    if summary.unknown:
        print(f"{summary.unknown} images have no patient number: a search cannot leave their patients out")
    if summary.repeated:
        print(f"{len(summary.repeated)} pictures are in the index more than once:")
        for places in summary.repeated[:_SHOWN_PLACES]:
            print(f"  {', '.join(map(text_of, places[:_SHOWN_PLACES]))}")
    _report_unused(summary, str(rejected))


def report_embedded(summary: Summary, to: Path, part: tuple[int, int]) -> None:
    """What cxrsearch embed wrote."""
    which = f" (part {part[0]} of {part[1]})" if part != (1, 1) else ""
    rate = f", {summary.indexed / summary.seconds:.0f} images/s" if summary.indexed and summary.seconds else ""
    rejected = summary.rejected.total()
    print(f"{summary.indexed} embedded into {to}{which}, {rejected} rejected in {summary.seconds:.1f} s{rate}")
    _report_unused(summary, "that file, and in the list that index --embeddings writes")


def _report_unused(summary: Summary, rejected: str) -> None:
    for reason, number in summary.rejected.most_common():
        log.warning(f"  rejected: {number} {reason}")
    if summary.rejected:
        log.warning(f"  each with its reason in {rejected}")
    for field, number in summary.unusable.most_common():
        log.warning(f"  field {field}: {number} DICOM values could not be used and are missing")
