"""cxrsearch locate: which file a token stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def locate(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="What was indexed: a dataset TOML, a shipped mapping, a folder.")
    ],
    tokens: Annotated[
        list[str], typer.Argument(metavar="TOKEN...", help="Tokens, as they stand for paths in an index.")
    ],
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="The folder of the dataset's images and table.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What the index calls the dataset.")
    ] = None,
) -> None:
    """Name the files that tokens stand for, with the pseudonym key and the files at hand.

    Example: cxrsearch locate facts.toml MZXW6YTBOI2DKNRX
    """
    from cxrsearch import settings
    from cxrsearch.clinical.identity import load_identity
    from cxrsearch.errors import InputError
    from cxrsearch.text import clean
    from indexer import dataset as datasets

    identity = load_identity(settings.key_file())
    if identity is None:
        raise InputError(
            f"{settings.key_file()}: no pseudonym key here; a token is looked up where its image was indexed"
        )
    data = datasets.load(dataset, root)
    if name is not None:
        data.rename(name)
    found = {identity.path(data.mapping.name, record.key): record for record in data.records()}
    for token in tokens:
        if (record := found.get(token.strip().upper())) is not None:
            print(f"{token.strip()}  {clean(str(record.path))}")
    if unknown := [token for token in tokens if token.strip().upper() not in found]:
        raise InputError(
            f"{', '.join(unknown)}: of no file of {data.mapping.name}. Is it of another dataset, or was that indexed"
            " under another --name or with another key?"
        )
