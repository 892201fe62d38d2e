"""cxrsearch index: fill an index from a dataset."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrsearch.cli import INTERRUPTED
from cxrsearch.cli.options import Index, Model

if TYPE_CHECKING:
    from indexer.dataset import Dataset
    from indexer.pipeline import Summary


def index(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="A dataset TOML, the name of a shipped mapping, or a folder of DICOM files."
        ),
    ],
    index: Index,
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Where the dataset's images and table are.")
    ] = None,
    model: Model = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="Processes that read images.")
    ] = os.cpu_count() or 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many images.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the mapping and show what it gives; read no image.")
    ] = False,
) -> int:
    """Put a dataset into an index, made when there is none. Run it again to go on, or to take in changes.

    Example: cxrsearch index covid-chestxray --root ../shared/data/covid-chestxray --index chest
    """
    from indexer import dataset as datasets

    data = datasets.load(dataset, root)
    if dry_run:
        _describe(data, limit)
        return 0
    from cxrsearch import settings
    from cxrsearch.encoder import DEFAULT_MODEL, Encoder
    from cxrsearch.identity import load_identity
    from cxrsearch.store import create_store, is_url
    from cxrsearch.store.contract import DatasetFacts, IndexFacts
    from indexer import pipeline

    encoder = Encoder(model or DEFAULT_MODEL)
    identity = load_identity(settings.key_file(), create=True)
    assert identity is not None
    empty = IndexFacts(encoder.card.name, encoder.card.fingerprint, encoder.card.dimensions, {}, {})
    facts = DatasetFacts(data.mapping.patient_namespace, str(data.root.resolve()))
    with create_store(index, empty.declaring(data.mapping.name, facts, data.mapping.declared)) as store:
        store.facts.check_model(encoder.card.name, encoder.card.fingerprint)
        declared = store.facts.declaring(data.mapping.name, facts, data.mapping.declared)
        if declared != store.facts:
            store.declare(declared)
        rejected = Path("rejected.jsonl") if is_url(index) else Path(index) / "rejected.jsonl"
        summary = pipeline.run(data, store, encoder, identity, workers, limit, rejected)
    _report(summary, rejected)
    if summary.interrupted:
        return INTERRUPTED
    return 3 if summary.rejected else 0


def _describe(data: Dataset, limit: int | None) -> None:
    """What an index would be made of: coverage of each field, the first values, patients."""
    from collections import Counter
    from itertools import islice

    from cxrsearch.clinical import values_of
    from cxrsearch.report.rows import text_of, write_table

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
    missing = sum(1 for record in records if record.problem or not record.path.is_file())
    print(f"{len(records)} images of {len(patients) or 'unknown'} patients in {data.root}; {missing} files are missing")
    print("dry run: nothing was read or written")


def _report(summary: Summary, rejected: Path) -> None:
    done = summary.indexed + summary.updated + summary.unchanged
    if summary.interrupted:
        print(
            f"stopped: {done} of {summary.total} images are in the index, which can be used."
            " The same command goes on from here.",
            file=sys.stderr,
        )
    rate = f", {summary.indexed / summary.seconds:.0f} images/s" if summary.indexed and summary.seconds else ""
    print(
        f"{summary.indexed} indexed, {summary.updated} updated, {summary.unchanged} unchanged,"
        f" {sum(summary.rejected.values())} rejected in {summary.seconds:.1f} s{rate}"
    )
    for reason, number in summary.rejected.most_common():
        print(f"  rejected: {number} {reason}", file=sys.stderr)
    if summary.rejected:
        print(f"  each with its reason in {rejected}", file=sys.stderr)
    for field, number in summary.unusable.most_common():
        print(f"  field {field}: {number} DICOM values could not be used and are missing", file=sys.stderr)
