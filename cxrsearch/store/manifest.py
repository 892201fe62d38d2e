"""What the files of a folder were when its writer left them, so that damage is an error, never an answer.

Opening an index compares sizes and dates, and hashes a file whose date differs (the engine touches some files when it
only reads). A bit that rotted under its old date is found by ``cxrsearch check``, which hashes everything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cxrsearch.errors import IndexUnavailable

OF_A_MOMENT = ".atomicwrite"  # how folders begin that the engine makes for a moment, even when it only reads
LOCK = "lock"

_BLOCK = 64 * 1024
# Of each file relative to the folder: size, modification time in ns, checksum.
Files = Mapping[str, tuple[int, int, str]]


def describe(folder: Path) -> Files:
    return {name: (*_state(folder / name), _sha256(folder / name)) for name in listed(folder)}


def check(folder: Path, files: Files | None) -> None:
    """Raises IndexUnavailable, naming the file, when one is missing, damaged or not of this folder. None: not known."""
    for found in problems(folder, files):
        raise IndexUnavailable(f"{found}. {ADVICE}")


def problems(folder: Path, files: Files | None, every_byte: bool = False) -> Iterator[str]:
    """What is wrong with each file, and which. every_byte: hash those too whose date is what it was."""
    found = set(listed(folder))
    if files is None:
        return
    for name in sorted(found - files.keys()):
        yield f"{folder / name}: not a file of this index"
    for name, (size, time, sha256) in files.items():
        if name not in found:
            yield f"{folder / name}: missing"
            continue
        state = _state(folder / name)
        if state[0] != size or ((every_byte or state[1] != time) and _sha256(folder / name) != sha256):
            yield f"{folder / name}: damaged"


ADVICE = "Restore the index from a backup (cxrsearch restore) or index again."


def listed(folder: Path) -> list[str]:
    """The names, relative to the folder, of its files. Raises IndexUnavailable for what is no regular file."""
    names: list[str] = []

    def walk(place: str, before: str) -> None:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith(OF_A_MOMENT):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    walk(entry.path, f"{before}{entry.name}/")
                elif not entry.is_file(follow_symlinks=False):
                    raise IndexUnavailable(f"{entry.path}: a link or no regular file; an index holds none. {ADVICE}")
                elif entry.name != LOCK:
                    names.append(before + entry.name)

    with contextlib.suppress(FileNotFoundError):
        walk(str(folder), "")
    return sorted(names)


def stretches(file: int) -> Iterator[tuple[int, int]]:
    """Where a file holds data: from, to."""
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole follows
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _sha256(path: Path) -> str:
    """Of the blocks that are not all zeros: the engine's files are mostly holes, which need not be read, and a copy
    that filled them is not damaged."""
    sha256, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        for start, end in stretches(file.fileno()):
            for at in range(max(done, start - start % _BLOCK), end, _BLOCK):
                block = os.pread(file.fileno(), _BLOCK, at)
                if block != bytes(len(block)):
                    sha256.update(at.to_bytes(8) + block)
                done = at + _BLOCK
    return sha256.hexdigest()
