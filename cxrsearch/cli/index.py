"""cxrsearch index: fill an index from a dataset."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrsearch.cli.options import Index, Model, OnDevice, Replicas, Shards
from cxrsearch.device import Device
from cxrsearch.errors import INTERRUPTED

if TYPE_CHECKING:
    from cxrsearch.store.placement import Placement
    from indexer.dataset import Dataset
    from indexer.pipeline import Options


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
    device: OnDevice = Device.CPU,
    shards: Shards = None,
    replicas: Replicas = None,
) -> int:
    """Put a dataset into an index. Run it again to continue, or to add what is new or changed.

    Example: cxrsearch index covid-chestxray --root ../shared/data/covid-chestxray --index chest
    """
    from cxrsearch.cli import index_output
    from indexer import dataset as datasets

    index_output.suggest_table(dataset)
    data = datasets.load(dataset, root)
    if name is not None:
        data.rename(name)
    if paths is not None:
        data.set_paths("hashed" if paths is Paths.HASHED else "relative")
    if dry_run:
        index_output.describe(data, limit)
        print("dry run: nothing was read or written")
        index_output.count_rows(data)
        index_output.warn(data)
        return 0
    from cxrsearch.imaging.radiograph import Gates
    from cxrsearch.store import placement_of
    from indexer.pipeline import Options

    modalities = frozenset({"CR", "DX", *(code.upper() for code in modality or [])})
    gates = Gates(modalities, any_body_part, views is Views.FRONTAL)
    options = Options(workers, gates, limit, None, again, prune, max_rejected / 100)
    placement = placement_of(index, shards, replicas)
    return index_dataset(
        data, index, model, options, rejected, retry_rejected, name is not None, device=device, placement=placement
    )


def index_dataset(
    data: Dataset,
    index: str,
    model: Path | None,
    options: Options,
    rejected: Path | None = None,
    retry_rejected: bool = False,
    renamed: bool = False,
    device: Device = Device.CPU,
    placement: Placement | None = None,
) -> int:
    """Fill an index and say what became of every file and row; the exit code."""
    from cxrsearch.cli import index_output
    from cxrsearch.model_card import find_model
    from indexer.fill import fill

    index_output.warn(data)
    summary, list_of_rejected = fill(
        data,
        index,
        find_model(model),
        options,
        rejected,
        retry_rejected,
        renamed=renamed,
        device=device,
        placement=placement,
    )
    index_output.report(summary, list_of_rejected)
    index_output.count_rows(data)
    if summary.interrupted:
        return INTERRUPTED
    return 3 if summary.rejected else 0
