"""cxrsearch cohort: counts and rows of the images that meet a filter."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrsearch.cli.complete import field_names, where_words
from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import AnyBodyPart, Fields, Index, Model, Output, Where, shown_fields
from cxrsearch.report.rows import Format, write

if TYPE_CHECKING:
    from cxrsearch.clinical.excerpts import Excerpt
    from cxrsearch.clinical.expression import Expression
    from cxrsearch.clinical.fields import Payload
    from cxrsearch.store.contract import VectorStore

_STEPS = " ▁▂▃▄▅▆▇█"
_SHOWN = 24  # pictures of a cohort: a screen or two


def cohort(
    ctx: typer.Context,
    index: Index,
    where: Where = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="FIELD",
            autocompletion=field_names,
            help="Count by this field, or by steps: age:10, study_date:month; repeat for up to three fields.",
        ),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(
            "--versus",
            metavar="EXPR",
            autocompletion=where_words,
            help="Compare with the images that meet this filter.",
        ),
    ] = None,
    similar_to: Annotated[
        Path | None,
        typer.Option("--similar-to", metavar="IMAGE", help="Show how similar the cohort, or each group, is to IMAGE."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the facts of the images to a .csv or .parquet file."),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="With --export to a .parquet file, write each image's embedding too.")
    ] = False,
    any_body_part: AnyBodyPart = False,
    min_cell: Annotated[
        int,
        typer.Option("--min-cell", metavar="N", min=1, help="With --by, leave out groups of fewer than N patients."),
    ] = 1,
    show: Annotated[bool, typer.Option("--show", help="Show the first images in the terminal.")] = False,
    shown: Fields = None,
    model: Model = None,
    format: Output = Format.TABLE,
) -> None:
    """Count or list the images and patients that meet a filter.

    Example: cxrsearch cohort --index chest --where 'age >= 60' --by finding --by outcome
    """
    from cxrsearch.clinical.where import parse
    from cxrsearch.cohort.counts import denials
    from cxrsearch.errors import UsageError
    from cxrsearch.store import open_store

    if sum(given is not None for given in (versus, similar_to, export)) > 1 or (by and (versus or export)):
        raise UsageError("give one of --by, --versus, --similar-to, --export (--by goes with --similar-to too)")
    if min_cell > 1 and (not by or similar_to is not None):
        raise UsageError("--min-cell goes with --by, when groups are counted")
    if embeddings and export is None:
        raise UsageError("--embeddings goes with --export FILE.parquet")
    if show and (by or versus is not None or similar_to is not None or export is not None):
        raise UsageError("--show goes with --where alone: it shows the images of a list")
    with open_store(index) as store:
        fields = store.facts.all_fields
        expression = parse(where, fields, store) if where is not None else None
        for warning in denials(store, expression):
            logging.getLogger(LOGGER).warning(warning)
        if versus is not None:
            _compare(store, expression, parse(versus, fields, store, "--versus"), format)
        elif similar_to is not None:
            _spread(store, expression, similar_to, by or [], model, any_body_part, format)
        elif export is not None:
            _export(store, expression, export, embeddings)
        elif by:
            _count(store, expression, by, min_cell, format)
        else:
            _list(store, expression, format, show, shown_fields(ctx, shown, fields))


def _count(store: VectorStore, expression: Expression | None, by: list[str], min_cell: int, format: Format) -> None:
    from cxrsearch.cohort import counts

    everyone, total = counts.count(store, by, expression)
    groups = [group for group in everyone if min_cell == 1 or group.patients >= min_cell]
    rows = [
        {
            **dict(zip(by, group.values, strict=True)),
            "images": group.images,
            "patients": group.patients,
            "unknown_patient": group.unknown,
        }
        for group in groups
    ]
    # The other formats have a way of their own to say missing.
    cells = [{name: "(missing)" if value is None else value for name, value in row.items()} for row in rows]
    write(rows, [*by, "images", "patients", "unknown_patient"], format, cells=cells)
    if hidden := len(everyone) - len(groups):
        # No total: less the groups that are shown, it would give a hidden one away.
        logging.getLogger(LOGGER).warning(f"{hidden} groups of fewer than {min_cell} patients are not shown")
    elif format is Format.TABLE:
        unknown = f", {total.unknown} of unknown patients" if total.unknown else ""
        print(f"{total.images} images of {total.patients} patients{unknown}")


def _list(
    store: VectorStore, expression: Expression | None, format: Format, show: bool, named_fields: list[str] | None
) -> None:
    from cxrsearch.clinical.excerpts import excerpts, plain, searched_words
    from cxrsearch.clinical.expression import named
    from cxrsearch.clinical.fields import DIGESTS
    from cxrsearch.cohort import counts
    from cxrsearch.imaging.canonical import grey
    from cxrsearch.report import show as showing
    from cxrsearch.report.columns import choose, headings, path_words
    from cxrsearch.store.images import SHOWN, StoredImages

    rows: list[dict[str, Any]] = [dict(payload) for payload in counts.rows(store, expression)]
    fields = store.facts.all_fields
    columns = [name for name in fields if name not in DIGESTS]
    words = searched_words(expression)
    cells = [{**row, **{n: plain(found) for n, found in excerpts(row, words).items()}} for row in rows]
    optional: list[str] = []
    if format is Format.TABLE:
        if named_fields is None:
            optional = choose(fields, rows, [name for name in named(expression) if name not in ("path", *DIGESTS)])
        columns = list(dict.fromkeys([*(optional if named_fields is None else named_fields), "path"]))
    write(rows, columns, format, cells=cells, optional=optional, headings=headings(fields))
    if format is Format.TABLE:
        if show:
            images, found = StoredImages(store), islice(store.scroll(expression), _SHOWN)
            shown = ((images.read(point.id, point.payload), point.payload) for point in found)
            showing.show(
                (
                    (
                        grey(image.radiograph, SHOWN) if image is not None else None,
                        _caption(excerpts(payload, words), payload),
                    )
                    for image, payload in shown
                ),
                sys.stdout,
            )
        for line in path_words(rows, store.facts.datasets):
            print(line)
        print(f"{len(rows)} images")


def _caption(found: Mapping[str, Excerpt], payload: Payload) -> str:
    from cxrsearch.clinical.excerpts import plain

    return " / ".join(plain(one) for one in found.values()) or str(payload.get("path", ""))


def _export(store: VectorStore, expression: Expression | None, file: Path, embeddings: bool) -> None:
    from cxrsearch.report import export

    print(f"wrote {export.write(store, expression, file, embeddings)} images to {file}")


def _compare(store: VectorStore, first: Expression | None, second: Expression | None, format: Format) -> None:
    from dataclasses import asdict

    from cxrsearch.cohort.comparison import compare
    from cxrsearch.report import comparisons

    found = compare(store, first, second)
    write(comparisons.rows(found), comparisons.COLUMNS, format, whole=asdict(found))
    if format is Format.TABLE:
        print(comparisons.summary(found))


def _spread(
    store: VectorStore,
    expression: Expression | None,
    image: Path,
    by: list[str],
    model: Path | None,
    any_body_part: bool,
    format: Format,
) -> None:
    from cxrsearch.archive import Archive
    from cxrsearch.errors import UsageError

    if len(by) > 1:
        raise UsageError("--similar-to goes with one --by")
    name = by[0] if by else None
    found, notes = Archive(store, model, any_body_part).spread(image, expression, name)
    rows, cells = [], []
    for one in found:
        row = {**({name: one.value} if name else {}), "images": one.images, "patients": one.patients}
        row |= {f"{part:.0%}": round(value, 4) for part, value in one.quantiles.items()}
        rows.append(row)
        most = max(max(one.histogram), 1)
        bars = "".join(_STEPS[round(number * (len(_STEPS) - 1) / most)] for number in one.histogram)
        label = {name: "(missing)" if one.value is None else one.value} if name else {}
        cells.append({**row, **label, "spread": f"|{bars}|"})
    columns = list(rows[0]) if rows else ["images", "patients"]
    write(rows, [*columns, "spread"] if format is Format.TABLE else columns, format, cells=cells)
    if format is Format.TABLE:
        print("similarity of the cohort's images to this one; the query's own patient is left out")
    for note in notes:
        logging.getLogger(LOGGER).warning(f"cxrsearch: {note}")
