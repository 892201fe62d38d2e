"""cxrsearch init: draft the mapping of a table, and show what it would index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import Model


def init(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A CSV, TSV, Excel (.xlsx, .xls), OpenDocument or Parquet file.")
    ],
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="The folder of the images that it is about.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.toml", help="Write the mapping here. Default: beside TABLE.")
    ] = None,
    sheet: Annotated[
        str | None, typer.Option("--sheet", metavar="NAME", help="The sheet of a workbook. Default: the fullest.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a mapping that is there.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Index at once, into --index.")] = False,
    index: Annotated[str | None, typer.Option("--index", metavar="PATH", help="With --yes, the index to fill.")] = None,
    model: Model = None,
) -> int:
    """Draft a mapping from a table and a folder of images, and show what would be indexed.

    Example: cxrsearch init facts.xlsx --images scans
    """
    from cxrsearch import files
    from cxrsearch.cli import init_output
    from cxrsearch.errors import InputError, UsageError
    from indexer.dataset import load
    from indexer.draft import draft
    from indexer.draft_toml import text_of

    if yes and index is None:
        raise UsageError("--yes fills an index: say which with --index")
    path = out or table.with_suffix(".toml")
    if path.suffix != ".toml":
        raise UsageError(f"--out {path}: a mapping ends in .toml")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: is there already. Write elsewhere with --out, or replace it with --overwrite.")
    drafted = draft(table, images, sheet)
    files.write(path, text_of(drafted, images, path.parent))
    data = load(str(path))
    init_output.describe(drafted, data)
    if not yes or index is None:
        init_output.next_commands(path, index)
        return 0
    from cxrsearch.cli.index import index_dataset
    from cxrsearch.imaging.radiograph import Gates
    from indexer.pipeline import Options

    print(f"wrote {path}")
    return index_dataset(data, index, model, Options(os.cpu_count() or 1, Gates()))
