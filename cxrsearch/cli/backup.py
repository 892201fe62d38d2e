"""cxrsearch backup and restore: an index as one file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup file.")]


def backup(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="The index: a folder or a URL.")], file: File
) -> None:
    """Check an index and write it into one file. Searches and an index run can go on meanwhile.

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
    """Make an index from a backup file, after checking it. The index is there when it is whole.

    Example: cxrsearch restore chest-2020-03.backup chest-again
    """
    from cxrsearch.store import backup as backups
    from cxrsearch.store import new_store

    saved = backups.Backup(file)
    with new_store(target, saved.facts) as store:
        count = backups.fill(store, saved.points(), saved.thumbnail, target)
    print(f"restored {count} images")
