"""cxrsearch index: fill an index from a dataset."""

from __future__ import annotations

import json
import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import Index, Model
from cxrsearch.errors import INTERRUPTED

if TYPE_CHECKING:
    from indexer.dataset import Dataset
    from indexer.summary import Summary

log = logging.getLogger(LOGGER)
# Pictures that are in the index more than once, and places of each, that the summary names.
_SHOWN_PLACES = 5
# Files on several rows that are named; the rest is in the list of rejected files.
_SHOWN_ROWS = 5


class Views(StrEnum):
    ALL = "all"
    FRONTAL = "frontal"


class Paths(StrEnum):
    RELATIVE = "relative"
    HASHED = "hashed"


def index(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A dataset TOML, the name of a shipped mapping, a folder of DICOM files, or a DICOMDIR.",
        ),
    ],
    index: Index,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="The folder of the dataset's images and table.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What the index calls the dataset.")
    ] = None,
    model: Model = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="How many processes read images.")
    ] = os.cpu_count() or 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first N files.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the dataset and show what would be indexed.")
    ] = False,
    modality: Annotated[
        list[str] | None,
        typer.Option("--modality", metavar="CODE", help="Also accept this DICOM modality: RF, OT, SC, ..."),
    ] = None,
    any_body_part: Annotated[
        bool, typer.Option("--any-body-part", help="Also accept DICOM files of other body parts.")
    ] = False,
    views: Annotated[Views, typer.Option("--views", help="With frontal, leave lateral views out.")] = Views.ALL,
    paths: Annotated[
        Paths | None, typer.Option("--paths", help="Store relative paths, or tokens instead of them.")
    ] = None,
    rejected: Annotated[
        Path | None, typer.Option("--rejected", metavar="FILE", help="Write the list of rejected files here.")
    ] = None,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Read only the files that the last run rejected.")
    ] = False,
    max_rejected: Annotated[
        int, typer.Option("--max-rejected", min=0, max=100, help="Stop when more than this percentage is rejected.")
    ] = 50,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete images from the index that the dataset no longer has.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also index patients that cxrsearch forget deleted.")] = False,
) -> int:
    """Put a dataset into an index. Run it again to continue, or to add what is new or changed.

    Example: cxrsearch index covid-chestxray --root ../shared/data/covid-chestxray --index chest
    """
    from indexer import dataset as datasets

    data = datasets.load(dataset, root)
    if name is not None:
        data.rename(name)
    if paths is not None:
        data.set_paths("hashed" if paths is Paths.HASHED else "relative")
    if dry_run:
        _describe(data, limit)
        _count_rows(data)
        _warn(data)
        return 0
    from cxrsearch import settings
    from cxrsearch.clinical.identity import load_identity
    from cxrsearch.encoder import DEFAULT_MODEL, Encoder
    from cxrsearch.files import replacing
    from cxrsearch.imaging.radiograph import Gates
    from cxrsearch.store import create_store, is_url
    from cxrsearch.store.contract import DatasetFacts, IndexFacts
    from indexer import pipeline

    folder = model or DEFAULT_MODEL
    card = Encoder(folder).card  # runs it once here: each process has one of its own
    identity = load_identity(settings.key_file(), create=True)
    assert identity is not None
    mapping = data.mapping
    shown_root = "" if mapping.privacy.paths == "hashed" else str(data.root.resolve())
    facts = DatasetFacts(
        mapping.patient_namespace,
        shown_root,
        tuple(mapping.identifiers),
        mapping.numberings.get("patient"),
        identity.place(data.root),
    )
    empty = IndexFacts(card.name, card.fingerprint, card.dimensions, {}, {})
    _warn(data)
    list_of_rejected = rejected or (Path("rejected.jsonl") if is_url(index) else Path(index) / "rejected.jsonl")
    only = _labels(list_of_rejected) if retry_rejected else None
    modalities = frozenset({"CR", "DX", *(code.upper() for code in modality or [])})
    options = pipeline.Options(
        workers, Gates(modalities, any_body_part, views is Views.FRONTAL), limit, only, again, prune, max_rejected / 100
    )
    with create_store(index, empty.declaring(mapping.name, facts, mapping.declared)) as store:
        store.facts.check_model(card.name, card.fingerprint)
        declared = store.facts.declaring(mapping.name, facts, mapping.declared, moved=name is not None)
        if declared != store.facts:
            store.declare(declared)
        # A run that fails leaves the old list, so that --retry-rejected can be run again.
        with replacing(list_of_rejected, private=True) as draft, draft.open("w", encoding="utf-8") as lines:
            summary = pipeline.run(data, store, folder, identity, lines, options)
    _report(summary, list_of_rejected)
    _count_rows(data)
    if summary.interrupted:
        return INTERRUPTED
    return 3 if summary.rejected else 0


def _labels(path: Path) -> frozenset[str]:
    """The files that the last run rejected. Raises InputError."""
    from cxrsearch.errors import InputError

    try:
        return frozenset(str(json.loads(line)["path"]) for line in path.read_text("utf-8").splitlines())
    except FileNotFoundError:
        raise InputError(f"{path}: no list of rejected files; index without --retry-rejected") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a list of rejected files; index without --retry-rejected") from None


def _warn(data: Dataset) -> None:
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
    if mapping.identifiers:
        log.warning(f"note: {', '.join(mapping.identifiers)} can identify patients and enter the index")
    for name, number in data.unmatched.items():
        if number:
            log.warning(f"note: field {name}: {number} values do not match its pattern and are missing")
    for found in [str(found) for found in data.contradictions.values()][:_SHOWN_ROWS]:
        log.warning(f"note: {found}; the file is rejected")
    if data.repeated:
        shown = "; ".join(", ".join(map(str, rows)) for rows in data.repeated[:_SHOWN_ROWS])
        log.warning(f"note: {len(data.repeated)} files are on several rows, whose facts are joined: rows {shown}")
    if data.table is not None and data.table.running:
        (first, last), number = data.table.running[0], len(data.table.running)
        log.warning(f"note: {number} rows run over several lines, the first over lines {first} to {last}")


def _describe(data: Dataset, limit: int | None) -> None:
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
        common = ", ".join(f"{text_of(value)[:30]} ({number})" for value, number in counts.most_common(4))
        rows.append({"field": name, "type": field.type, "images": source or known, "most common": common})
    write_table(rows, ["field", "type", "images", "most common"])
    patients = {record.patient for record in records} - {None}
    missing = sum(1 for record in records if record.problem or not is_file(record.path))
    print(f"{len(records)} images of {len(patients) or 'unknown'} patients in {data.root}; {missing} files are missing")
    print("dry run: nothing was read or written")


def _count_rows(data: Dataset) -> None:
    """What became of the rows of the table: together they are all of it."""
    if data.table is not None:
        counts = data.row_counts
        parts = ", ".join(f"{number} {what}" for what, number in counts.items())
        print(f"{sum(counts.values())} rows in {data.table.name}: {parts}")


def _report(summary: Summary, rejected: Path) -> None:
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
    if summary.forgotten:
        print(f"{summary.forgotten} files of forgotten patients were left out; --again takes them in")
    if summary.unknown:
        print(f"{summary.unknown} images have no patient number: a search cannot leave their patients out")
    if summary.repeated:
        print(f"{len(summary.repeated)} pictures are in the index more than once:")
        for places in summary.repeated[:_SHOWN_PLACES]:
            print(f"  {', '.join(map(text_of, places[:_SHOWN_PLACES]))}")
    for reason, number in summary.rejected.most_common():
        log.warning(f"  rejected: {number} {reason}")
    if summary.rejected:
        log.warning(f"  each with its reason in {rejected}")
    for field, number in summary.unusable.most_common():
        log.warning(f"  field {field}: {number} DICOM values could not be used and are missing")
