"""The options that several commands share, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.complete import where_words
from cxrsearch.report.rows import Format

Index = Annotated[
    str, typer.Option("--index", metavar="PATH", help="The index: a folder, or http://host:6333/collection.")
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPR",
        autocompletion=where_words,
        help="Only images that meet this, e.g. 'age >= 60 and icu = true'.",
    ),
]
Output = Annotated[Format, typer.Option("--format", help="How to print the rows.")]
Model = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="A model folder; by default the one that ships.")
]
Configuration = Annotated[
    Path, typer.Argument(metavar="CONFIG.toml", help="A training configuration; see trainer/configs/.")
]
AllowLeakage = Annotated[
    bool,
    typer.Option("--allow-leakage", help="Take images without a patient number too; every table then says so."),
]
