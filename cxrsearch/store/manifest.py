"""What the files of an index in a folder were when its writer closed it, so that damage is an error, never an answer.

    INDEX/manifest.json   {file relative to the index: [size, modification time in ns, sha256]}

Opening compares size and time; a file whose time differs is hashed (the engine touches some files when it only
reads). While a writer is at work, and after one that was killed, there is no manifest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cxrsearch.errors import IndexUnavailable
from cxrsearch.files import replacing

NAME = "manifest.json"
_FILES = ("index.json", "shard")


def write(folder: Path) -> None:
    """Describe the index's files as they are now. Raises IndexUnavailable."""
    described = {name: [*_state(folder / name), _sha256(folder / name)] for name in _listed(folder)}
    with replacing(folder / NAME, failure=IndexUnavailable) as draft:
        draft.write_text(json.dumps(described), "utf-8")


def remove(folder: Path) -> None:
    """The files are about to change."""
    (folder / NAME).unlink(missing_ok=True)


def check(folder: Path) -> None:
    """Raises IndexUnavailable, naming the file, when one is missing, damaged or not of this index."""
    try:
        described = json.loads((folder / NAME).read_text("utf-8"))
        known = {str(name): (int(size), int(time), str(sha256)) for name, (size, time, sha256) in described.items()}
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, AttributeError):
        raise _damaged(folder / NAME, "damaged") from None
    found = set(_listed(folder))
    for name in sorted(found - known.keys()):
        raise _damaged(folder / name, "not a file of this index")
    for name, (size, time, sha256) in known.items():
        if name not in found:
            raise _damaged(folder / name, "missing")
        state = _state(folder / name)
        if state[0] != size or (state[1] != time and _sha256(folder / name) != sha256):
            raise _damaged(folder / name, "damaged")


def _damaged(path: Path, what: str) -> IndexUnavailable:
    return IndexUnavailable(f"{path}: {what}. Restore the index from a backup (cxrsearch restore) or index again.")


def _listed(folder: Path) -> list[str]:
    listed = []
    for name in _FILES:
        path = folder / name
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        listed += [p.relative_to(folder).as_posix() for p in inside if p.is_file()]
    return listed


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
