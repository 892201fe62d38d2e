"""cxrsearch backup and restore: an index as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup file.")]


def backup(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="The index: a folder or a URL.")], file: File
) -> None:
    """Write an index into one file. Searches can go on meanwhile.

    Example: cxrsearch backup chest chest-2020-03.backup
    """
    from cxrsearch.errors import UsageError
    from cxrsearch.store import backup as backups
    from cxrsearch.store import open_store

    if file.exists():
        raise UsageError(f"{file}: is there already; give another name")
    with open_store(source) as store:
        count = backups.save(store, file)
    print(f"wrote {count} images into {file}, {file.stat().st_size / 2**20:.1f} MiB")


def restore(
    file: File, target: Annotated[str, typer.Argument(metavar="INDEX", help="A new index: a folder or a URL.")]
) -> None:
    """Make an index from a backup file, after checking it.

    Example: cxrsearch restore chest-2020-03.backup chest-again
    """
    from cxrsearch.errors import UsageError
    from cxrsearch.store import create_store
    from cxrsearch.store.backup import Backup

    saved = Backup(file)
    with create_store(target, saved.facts) as store:
        if store.count():
            raise UsageError(f"{target}: holds {store.count()} images already; give a new index")
        store.declare(saved.facts)
        count = 0
        for points in saved.points():
            store.upsert(points)
            count += len(points)
        for id, picture in saved.thumbnails():
            store.thumbnails.put(id, picture)
        store.optimise()
    print(f"restored {count} images")
