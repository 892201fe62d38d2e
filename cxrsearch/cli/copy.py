"""cxrsearch copy: an index from a folder to a server, or back."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

# Points written at once; their vectors and payloads together stay below a few MB.
_BATCH = 500


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The index to copy: a folder or a URL.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The new index: a folder or a URL.")],
) -> None:
    """Copy an index from a folder to a server, or back.

    Example: cxrsearch copy chest http://localhost:6333/chest
    """
    from cxrsearch.errors import UsageError
    from cxrsearch.store import create_store, is_url, open_store

    same = source.rstrip("/") == target.rstrip("/")
    if same or (not (is_url(source) or is_url(target)) and Path(source).resolve() == Path(target).resolve()):
        raise UsageError(f"{target}: is the index to copy itself; give another folder or URL as DST")
    with open_store(source) as old, create_store(target, old.facts) as new:
        if new.count():
            raise UsageError(f"{target}: holds {new.count()} images already; give a new index")
        new.declare(old.facts)
        copied, points_of_old = 0, old.scroll(vectors=True)
        while points := list(islice(points_of_old, _BATCH)):
            new.upsert(points)
            copied += len(points)
            for id in (point.id for point in points):
                if (picture := old.thumbnails.get(id)) is not None:
                    new.thumbnails.put(id, picture)
        new.optimise()
    print(f"copied {copied} images")
