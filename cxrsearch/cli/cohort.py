"""cxrsearch cohort: counts and rows of the images that meet a filter."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from cxrsearch.cli.options import Index, Output, Where
from cxrsearch.report.rows import Format


def cohort(
    index: Index,
    where: Where = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="FIELD", help="Count by this field; up to three times.")
    ] = None,
    format: Output = Format.TABLE,
) -> None:
    """Count the images and patients that meet a filter; without --by, list the images.

    Example: cxrsearch cohort --index chest --where 'age >= 60' --by finding --by outcome
    """
    from cxrsearch import cohort as cohorts
    from cxrsearch.report.rows import write_csv, write_json, write_jsonl, write_table
    from cxrsearch.store import open_store
    from cxrsearch.where import parse

    with open_store(index) as store:
        fields = store.facts.all_fields
        expression = parse(where, fields, store) if where is not None else None
        rows: list[dict[str, Any]]
        if by:
            groups, total = cohorts.count(store, by, expression)
            columns = [*by, "images", "patients", "unknown_patient"]
            cells = [(group, dict(zip(by, group.values, strict=True))) for group in groups]
            if format is Format.TABLE:  # the other formats have a way of their own to say missing
                cells = [(g, {n: "(missing)" if v is None else v for n, v in cell.items()}) for g, cell in cells]
            rows = [
                {**cell, "images": g.images, "patients": g.patients, "unknown_patient": g.unknown} for g, cell in cells
            ]
            summary = f"{total.images} images of {total.patients} patients"
            summary += f", {total.unknown} of unknown patients" if total.unknown else ""
        else:
            rows = [dict(payload) for payload in cohorts.rows(store, expression)]
            columns = [name for name in fields if name != "image_sha256"]
            summary = f"{len(rows)} images"
    match format:
        case Format.TABLE:
            used = [name for name in columns if by or any(row.get(name) is not None for row in rows)]
            write_table(rows, used)
            print(summary)
        case Format.JSON:
            write_json(rows, sys.stdout)
        case Format.JSONL:
            write_jsonl(rows, sys.stdout)
        case Format.CSV:
            write_csv(rows, columns, sys.stdout)
