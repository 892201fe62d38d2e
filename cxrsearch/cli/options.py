"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxrsearch.cli.complete import where_words
from cxrsearch.device import Device
from cxrsearch.report.rows import Format

if TYPE_CHECKING:
    from cxrsearch.clinical.fields import Field
    from cxrsearch.imaging.radiograph import Gates


class Views(StrEnum):
    ALL = "all"
    FRONTAL = "frontal"


Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A dataset TOML, the name of a shipped mapping, a folder of DICOM files, or a DICOMDIR.",
    ),
]
Root = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="The folder of the dataset's images and table.")
]
DatasetName = Annotated[str | None, typer.Option("--name", metavar="NAME", help="What the index calls the dataset.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=65_536, help="How many processes read images. Default: one for each core."),
]
Modality = Annotated[
    list[str] | None,
    typer.Option("--modality", metavar="CODE", help="Also accept this DICOM modality: RF, OT, SC, ..."),
]
BodyParts = Annotated[bool, typer.Option("--any-body-part", help="Also accept DICOM files of other body parts.")]
ViewsWanted = Annotated[Views, typer.Option("--views", help="With frontal, leave lateral views out.")]
MaxRejected = Annotated[
    int, typer.Option("--max-rejected", min=0, max=100, help="Stop when more than this percentage is rejected.")
]
Index = Annotated[
    str,
    typer.Option(
        "--index",
        metavar="PATH",
        help="The index: a folder, http://host:6333/collection, or http://a:6333,b:6333/collection on a cluster.",
    ),
]
# Of a cluster; contract.MOST_SHARDS says up to how many.
Shards = Annotated[
    int | None,
    typer.Option("--shards", min=1, max=1000, help="On a new index of a cluster: in how many parts it is kept."),
]
Replicas = Annotated[
    int | None,
    typer.Option(
        "--replicas",
        min=1,
        max=1000,
        help="On a new index of a cluster: on how many nodes each part is; from 2 on, one may be lost.",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPR",
        autocompletion=where_words,
        help="Only images that meet this filter, e.g. 'age >= 60 and icu = true'.",
    ),
]
AnyBodyPart = Annotated[
    bool,
    typer.Option("--any-body-part", help="Also take DICOM files of other body parts, and of CT, MR and so on."),
]
Output = Annotated[Format, typer.Option("--format", help="Output format.")]
Fields = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="A,B,C",
        help="The facts a table shows; keep them as fields in cxrsearch.toml. Default: what is known, findings first.",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A model: its name (see cxrsearch models) or its folder. Default: the one that ships.",
    ),
]
OnDevice = Annotated[
    Device, typer.Option("--device", help="What embeds: the processor, or a GPU of Nvidia's (cxrsearch[gpu]).")
]
Configuration = Annotated[
    Path, typer.Argument(metavar="CONFIG.toml", help="A training configuration; see trainer/configs/.")
]
ExternalRoot = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="With --external: where the images are.")
]
AllowLeakage = Annotated[
    bool,
    typer.Option(
        "--allow-leakage", help="Also use images without a patient number; all results are then marked LEAKAGE."
    ),
]


def shown_fields(ctx: typer.Context, given: str | None, fields: Mapping[str, Field]) -> list[str] | None:
    """What --fields names of an index's fields; None where nothing does. Raises UsageError."""
    from cxrsearch.report.columns import named

    source = ctx.get_parameter_source("shown")
    return None if given is None else named(given, fields, source is not None and source.name == "DEFAULT_MAP")


def gates(modality: list[str] | None, any_body_part: bool, views: Views) -> Gates:
    """Which files are let in by these options."""
    from cxrsearch.imaging.radiograph import Gates

    modalities = frozenset({"CR", "DX", *(code.upper() for code in modality or [])})
    return Gates(modalities, any_body_part, views is Views.FRONTAL)
