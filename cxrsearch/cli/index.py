"""cxrsearch index: fill an index from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrsearch.cli.options import (
    BodyParts,
    Dataset,
    DatasetName,
    Index,
    MaxRejected,
    Modality,
    Model,
    OnDevice,
    Replicas,
    Root,
    Shards,
    Views,
    ViewsWanted,
    Workers,
    gates,
)
from cxrsearch.device import Device
from cxrsearch.errors import INTERRUPTED, UsageError

if TYPE_CHECKING:
    from cxrsearch.store.placement import Placement
    from indexer.dataset import Dataset as LoadedDataset
    from indexer.pipeline import Options


class Engines(StrEnum):
    PROCESSES = "processes"
    RAY = "ray"


class Paths(StrEnum):
    RELATIVE = "relative"
    HASHED = "hashed"


def index(
    dataset: Dataset,
    index: Index,
    root: Root = None,
    name: DatasetName = None,
    model: Model = None,
    workers: Workers = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first N files.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the dataset and show what would be indexed.")
    ] = False,
    modality: Modality = None,
    any_body_part: BodyParts = False,
    views: ViewsWanted = Views.ALL,
    paths: Annotated[
        Paths | None, typer.Option("--paths", help="Store relative paths, or tokens instead of them.")
    ] = None,
    rejected: Annotated[
        Path | None, typer.Option("--rejected", metavar="FILE", help="Write the list of rejected files here.")
    ] = None,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Read only the files that the last run rejected.")
    ] = False,
    max_rejected: MaxRejected = 50,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete images from the index that the dataset no longer has.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also index patients that cxrsearch forget deleted.")] = False,
    device: OnDevice = Device.CPU,
    shards: Shards = None,
    replicas: Replicas = None,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(
            "--embeddings",
            metavar="FILES",
            help="Store what cxrsearch embed wrote, and read no image: 'part-*.parquet', in quotes.",
        ),
    ] = None,
    engine: Annotated[
        Engines,
        typer.Option("--engine", help="With ray, a Ray cluster reads and embeds, for an index on a server."),
    ] = Engines.PROCESSES,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="RAY",
            help="The cluster of --engine ray: ray://head:10001. Default: one of this machine alone, for the run.",
        ),
    ] = None,
) -> int:
    """Put a dataset into an index. Run it again to continue, or to add what is new or changed.

    Example: cxrsearch index covid-chestxray --root ../shared/data/covid-chestxray --index chest
    """
    from cxrsearch.cli import index_output
    from cxrsearch.store import is_url
    from indexer import dataset as datasets

    if embeddings and (modality or any_body_part or views is not Views.ALL or retry_rejected):
        raise UsageError(
            "--embeddings: reads no image, so --modality, --any-body-part, --views and --retry-rejected say nothing;"
            " give them to cxrsearch embed"
        )
    if device is not Device.CPU and embeddings:
        raise UsageError(f"--device {device}: nothing is embedded; leave it out")
    if address is not None and not address.strip():
        raise UsageError("--address: is empty; leave it out, or give that of a Ray cluster: ray://HOST:10001")
    if engine is not Engines.RAY and address is not None:
        raise UsageError("--address: is of a Ray cluster; give --engine ray with it")
    if engine is Engines.RAY and embeddings:
        raise UsageError("--engine ray: nothing is left to embed of --embeddings; leave one of them out")
    if engine is Engines.RAY and not is_url(index):
        raise UsageError(
            f"--engine ray --index {index}: a folder is written and searched on one machine, and an archive that takes"
            " a cluster to embed needs a Qdrant server: give http://HOST:6333/NAME, or leave --engine out"
        )
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
    from cxrsearch.store import placement_of
    from indexer.pipeline import Options
    from indexer.readers import CORES

    let_in = gates(modality, any_body_part, views)
    options = Options(workers or CORES, let_in, limit, None, again, prune, max_rejected / 100)
    placement = placement_of(index, shards, replicas)
    if engine is Engines.RAY:
        from indexer import ray_readers

        options = replace(options, engine=ray_readers.connect(address, workers, device))
        device = Device.CPU  # of this process
    return index_dataset(
        data,
        index,
        model,
        options,
        rejected,
        retry_rejected,
        name is not None,
        device=device,
        placement=placement,
        embeddings=embeddings or (),
    )


def index_dataset(
    data: LoadedDataset,
    index: str,
    model: Path | None,
    options: Options,
    rejected: Path | None = None,
    retry_rejected: bool = False,
    renamed: bool = False,
    device: Device = Device.CPU,
    placement: Placement | None = None,
    embeddings: Sequence[str] = (),
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
        embeddings=embeddings,
    )
    index_output.report(summary, list_of_rejected)
    index_output.count_rows(data)
    if summary.interrupted:
        return INTERRUPTED
    return 3 if summary.rejected or summary.absent else 0
