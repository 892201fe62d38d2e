"""cxrsearch info: what an index holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cxrsearch.cli.options import Index, Output
from cxrsearch.report.rows import Format

if TYPE_CHECKING:
    from cxrsearch.store.contract import VectorStore


def info(index: Index, format: Output = Format.TABLE) -> None:
    """Show what an index holds: fields, counts, model, size on disk.

    Example: cxrsearch info --index chest
    """
    from cxrsearch.clinical.expression import Missing, Not
    from cxrsearch.report import votes
    from cxrsearch.report.rows import text_of, write, write_table
    from cxrsearch.store import graph, open_store
    from cxrsearch.voting.calibration import Calibration

    with open_store(index) as store, _saying_what_is_dead(store):
        facts = store.facts
        images, patients = store.count(), len(store.values("patient"))
        rows: list[dict[str, Any]] = []
        for field in facts.all_fields.values():
            known = store.count(Not(Missing(field.name)))
            kind = f"list of {field.type}" if field.several else str(field.type)
            rows.append(
                {"field": field.name, "type": kind, "images": known, "coverage": known / images if images else 0.0}
            )
        unknown = store.count(Missing("patient"))
        size = store.size_bytes()
        datasets = store.values("dataset")
        kept = store.replication()
    columns = ["field", "type", "images", "coverage"]
    calibration = Calibration.from_json(facts.calibration)
    if format is Format.TABLE:
        print(f"images      {images} of {patients} patients{f', {unknown} of unknown patients' if unknown else ''}")
        print(f"datasets    {', '.join(f'{text_of(name)} ({number})' for name, number in datasets.items()) or '-'}")
        print(f"model       {text_of(facts.model)}, {facts.dimensions} dimensions, {facts.fingerprint[:12]}")
        for name, dataset in facts.datasets.items():
            if dataset.identifiers:
                print(f"identifiers {text_of(name)}: {', '.join(dataset.identifiers)} (allow_identifiers)")
        if size is not None:
            print(f"on disk     {size / 2**20:.1f} MiB")
        print(f"search      {text_of(graph.words(facts.graph, images, facts.dimensions))}")
        if kept is not None:
            print(f"cluster     {kept.words()}")
            for found, to_do in kept.problems():
                print(f"            {found}: {to_do}")
        for line in votes.calibration_words(calibration) if calibration is not None else ["not calibrated"]:
            print(f"vote        {line}")
    identifiers = {name: list(dataset.identifiers) for name, dataset in facts.datasets.items() if dataset.identifiers}
    whole = {
        "images": images,
        "patients": patients,
        "unknown_patient": unknown,
        "datasets": datasets,
        "model": facts.model,
        "fingerprint": facts.fingerprint,
        "dimensions": facts.dimensions,
        "identifiers": identifiers,
        "bytes": size,
        "cluster": kept.as_json() if kept is not None else None,
        "fields": rows,
        "calibration": facts.calibration,
        "graph": None if facts.graph is None else asdict(facts.graph),
        "search": graph.as_json(graph.used(facts.graph, 1)),
    }
    cells = [{**row, "coverage": f"{row['coverage']:.0%}"} for row in rows]
    write(rows, columns, format, cells=cells, whole=whole)
    if format is Format.TABLE and calibration is not None:
        measured = [votes.written(row) for row in votes.calibration_rows(calibration)]
        write_table(measured, votes.CALIBRATION_COLUMNS, "votes, on patients held out")


@contextmanager
def _saying_what_is_dead(store: VectorStore) -> Iterator[None]:
    """Where the index does not answer, the error says too what doctor says of its cluster."""
    from cxrsearch.errors import IndexUnavailable

    try:
        yield
    except IndexUnavailable as error:
        said = [str(error)]
        with suppress(IndexUnavailable):
            kept = store.replication()
            said += [f"{found}: {to_do}" for found, to_do in kept.problems()] if kept is not None else []
        raise IndexUnavailable("\n".join(said)) from None
