"""Files that are whole or not there: written beside, flushed to the disk, then renamed into place."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrsearch.errors import CxrSearchError, InputError


@contextmanager
def replacing(
    path: Path,
    private: bool = False,
    flush: bool = True,
    failure: type[CxrSearchError] = InputError,
    several: bool = False,
) -> Iterator[Path]:
    """An empty draft beside ``path``, to be written; it takes the place of ``path`` when the block ends without error.

    private: readable by its owner only. flush: False where a file that a power cut empties is no loss. several: other
    processes may be writing the same file; each has a draft of its own, and the last to end has its file there.
    Raises ``failure``, with the file and the reason, where it cannot be written; the old file then stays.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new" if several else f"{path.name}.new")
    try:
        if several:
            _remove_abandoned(path)
        draft.unlink(missing_ok=True)  # of a process that was killed; it may have had another mode
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666))
        yield draft
        if flush:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        # What the block does beside writing may fail too, and is no fault of this file.
        if isinstance(error, ConnectionError) or error.filename not in (None, draft, str(draft)):
            raise
        raise failure(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of processes that were killed."""
    for draft in path.parent.glob(f"{glob.escape(path.name)}.*.new"):
        number = draft.name.removeprefix(f"{path.name}.").removesuffix(".new")
        if not number.isdecimal():
            continue
        try:
            os.kill(int(number), 0)  # sends nothing, and fails where there is no such process
        except (ProcessLookupError, OverflowError):
            draft.unlink(missing_ok=True)
        except PermissionError:
            continue


def write(path: Path, content: str | bytes, private: bool = False) -> None:
    """Write a whole file, text as UTF-8. Raises InputError."""
    with replacing(path, private) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def append(path: Path, line: str) -> None:
    """Add a line to a private list that is made where there is none; a link in its place is not followed.

    One write, so that two writers do not mix their lines. Raises OSError.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
