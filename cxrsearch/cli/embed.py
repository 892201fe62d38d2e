"""cxrsearch embed: embeddings of a dataset, or of a part of it, as a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import (
    BodyParts,
    Dataset,
    DatasetName,
    MaxRejected,
    Modality,
    Model,
    Root,
    Views,
    ViewsWanted,
    Workers,
    gates,
)
from cxrsearch.errors import UsageError


def embed(
    dataset: Dataset,
    to: Annotated[Path, typer.Option("--to", metavar="FILE.parquet", help="The file to write.")],
    part: Annotated[
        str, typer.Option("--part", metavar="M/N", help="Only the M-th of N equal parts of the dataset.")
    ] = "1/1",
    root: Root = None,
    name: DatasetName = None,
    model: Model = None,
    workers: Workers = None,
    modality: Modality = None,
    any_body_part: BodyParts = False,
    views: ViewsWanted = Views.ALL,
    max_rejected: MaxRejected = 50,
) -> int:
    """Embed a dataset, or a part of it, into a file, for cxrsearch index --embeddings on any machine with the same key.

    Example: cxrsearch embed set.toml --part 3/40 --to part-3.parquet
    """
    from cxrsearch.cli import index_output
    from cxrsearch.model_card import find_model
    from indexer import dataset as datasets
    from indexer.embed import embed as make
    from indexer.pipeline import Options
    from indexer.readers import CORES

    which = _part(part)
    data = datasets.load(dataset, root)
    if name is not None:
        data.rename(name)
    index_output.warn(data)
    options = Options(workers or CORES, gates(modality, any_body_part, views), max_rejected=max_rejected / 100)
    summary = make(data, to, find_model(model), options, which)
    index_output.report_embedded(summary, to, which)
    return 3 if summary.rejected else 0


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--part {text}: give which part of how many, from 1/N to N/N, such as 3/40")
    return int(found[1]), int(found[2])
