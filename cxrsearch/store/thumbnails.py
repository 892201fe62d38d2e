"""A small picture of each indexed image, beside the index: what is shown where the original is away.

    INDEX/thumbnails/3f/3f2504e0-....jpg   metadata stripped, the longer side 256 pixels
    INDEX/thumbnails/sha256sums            of each, as sha256sum(1) writes and checks them

For an index on a server the folder is a setting (CXRSEARCH_THUMBNAILS) of those who write it, and the collection names
it to everybody else: they see these pictures and delete those of deleted images. They put none there, as a stranger's
server could name any folder. The setting may be an address too, as of S3 (object_thumbnails.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from cxrsearch.errors import IndexUnavailable
from cxrsearch.files import append, replacing

SIDE = 256
# One of ours is some 10 kB; what is larger was put there by somebody else, or is damaged.
LARGEST = 2**20
JPEG = b"\xff\xd8\xff"
_SUMS = "sha256sums"
# The engine gives back the ids that were stored: UUIDs. Anything else would be no file name of ours.
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_LINE = re.compile(r"^([0-9a-f]{64})  [0-9a-f]{2}/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.jpg$", re.MULTILINE)


class Thumbnails:
    """The pictures of one index by point id. ``folder``: None where none are kept.

    place: what messages call it. keeps: whether new ones are put there.
    unsettled: ids of the pictures written since the index was opened whose points were not stored yet.
    """

    def __init__(
        self, folder: Path | None, changing: Callable[[], None] = lambda: None, named_by_others: bool = False
    ) -> None:
        """changing: called before a picture is written. named_by_others: not this user's choice of a folder."""
        self.folder, self.unsettled, self._changing = folder, set[str](), changing
        self.place = str(folder)
        self.keeps = folder is not None and not named_by_others

    def put(self, id: str, picture: bytes) -> None:
        """Keep a JPEG file; one of the same id is replaced. Raises IndexUnavailable."""
        path = self._path(id)
        if path is None or not self.keeps:
            return
        self._changing()
        self.unsettled.add(id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Before the picture: one that is replaced is known by both its sums, until the old one is removed.
            append(path.parent.parent / _SUMS, _line(id, hashlib.sha256(picture).hexdigest()))
            # Not flushed: one that a power cut empties is taken for missing, and thousands are written a minute.
            with replacing(path, private=True, flush=False, failure=IndexUnavailable) as draft:
                draft.write_bytes(picture)
        except (OSError, IndexUnavailable) as error:
            why = error.strerror if isinstance(error, OSError) else error
            what = f"{self.folder}: thumbnails cannot be written ({why})"
            raise IndexUnavailable(f"{what}; make room, or set thumbnails = false under [privacy]") from None

    def has(self, id: str) -> bool:
        path = self._path(id)
        return path is not None and path.is_file()

    def get(self, id: str) -> bytes | None:
        """None where there is none, or what is there is a link, no regular file, no JPEG or far too large for one."""
        path = self._path(id)
        try:
            if path is None or path.parent.is_symlink():
                return None
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
                    return None
                picture = file.read(LARGEST)
        except OSError:
            return None
        return picture if is_thumbnail(picture) else None

    def remove(self, ids: Collection[str]) -> None:
        if not ids:
            return
        for path in filter(None, map(self._path, ids)):
            path.unlink(missing_ok=True)
        sums = self._sums()
        if not sums.keys().isdisjoint(ids):
            self._write_sums({id: own for id, own in sums.items() if id not in ids})

    def keep_only(self, ids: Collection[str]) -> None:
        """Remove every other picture, and the drafts of those that were never finished."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.glob("*/*"):
            if path.suffix != ".jpg" or path.stem not in ids:
                path.unlink(missing_ok=True)
        self._write_sums({id: sums for id, sums in self._sums().items() if id in ids})

    def remove_all(self) -> None:
        """Of a place that no other index has."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def ids(self) -> Iterator[str]:
        """Of every picture there is, in order."""
        if self.folder is not None:
            yield from sorted(path.stem for path in self.folder.glob("*/*.jpg") if UUID.match(path.stem))

    def problems(self) -> Iterator[str]:
        """Every picture that is gone or not what it was."""
        for id, sums in sorted(self._sums().items()):
            path = self._path(id)
            assert path is not None
            if not path.exists():
                yield f"{path}: missing"
            elif (picture := self.get(id)) is None or hashlib.sha256(picture).hexdigest() not in sums:
                yield f"{path}: damaged"

    def is_reachable(self) -> bool:
        """Whether what is deleted here is gone: not where others named a folder that this machine does not have."""
        return self.folder is None or self.keeps or self.folder.is_dir()

    def _sums(self) -> dict[str, list[str]]:
        """The sums of each picture, by id: more than one where it was replaced."""
        found: dict[str, list[str]] = {}
        path = None if self.folder is None else self.folder / _SUMS
        if path is not None and path.is_file() and not path.is_symlink():
            for match in _LINE.finditer(path.read_text("ascii", "replace")):
                found.setdefault(match[2], []).append(match[1])
        return found

    def _write_sums(self, sums: Mapping[str, Sequence[str]]) -> None:
        if self.folder is not None and self.folder.is_dir():
            lines = "".join(_line(id, sum) for id, own in sums.items() for sum in own)
            with replacing(self.folder / _SUMS, private=True, failure=IndexUnavailable) as draft:
                draft.write_text(lines, "ascii")

    def _path(self, id: str) -> Path | None:
        if self.folder is None or not UUID.match(id):
            return None
        return self.folder / id[:2] / f"{id}.jpg"


def is_thumbnail(picture: bytes) -> bool:
    """Whether this may be a picture of ours: a JPEG file that is not far too large."""
    return len(picture) <= LARGEST and picture.startswith(JPEG)


def _line(id: str, sum: str) -> str:
    return f"{sum}  {id[:2]}/{id}.jpg\n"
