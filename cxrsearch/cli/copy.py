"""cxrsearch copy: an index from a folder to a server, or back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Points written at once; their vectors and payloads together stay below a few MB.
_BATCH = 500


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The index to copy: a folder or a URL.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The new index: a folder or a URL.")],
) -> None:
    """Copy an index from a folder to a server, or back. The copy is there when it is whole.

    Example: cxrsearch copy chest http://localhost:6333/chest
    """
    from cxrsearch.errors import UsageError
    from cxrsearch.store import backup as backups
    from cxrsearch.store import is_url, new_store, open_store

    same = source.rstrip("/") == target.rstrip("/")
    if same or (not (is_url(source) or is_url(target)) and Path(source).resolve() == Path(target).resolve()):
        raise UsageError(f"{target}: is the index to copy itself; give another folder or URL as DST")
    with open_store(source) as old, new_store(target, old.facts) as new:
        points = backups.batches(old.scroll(vectors=True), _BATCH)
        copied = backups.fill(new, points, old.thumbnails.get, target)
    print(f"copied {copied} images")
