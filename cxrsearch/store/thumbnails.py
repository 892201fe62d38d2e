"""A small picture of each indexed image, beside the index: what is shown where the original is away.

    INDEX/thumbnails/3f/3f2504e0-....jpg   metadata stripped, the longer side 256 pixels

For an index on a server the folder is a setting (CXRSEARCH_THUMBNAILS); without it there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cxrsearch.errors import IndexUnavailable
from cxrsearch.files import replacing

SIDE = 256
# The engine gives back the ids that were stored: UUIDs. Anything else would be no file name of ours.
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


class Thumbnails:
    """The pictures of one index by point id. ``folder``: None where none are kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def put(self, id: str, picture: bytes) -> None:
        """Keep a JPEG file; one of the same id is replaced. Raises IndexUnavailable."""
        path = self._path(id)
        if path is None:
            return
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
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
        path = self._path(id)
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    def remove(self, ids: Iterable[str]) -> None:
        for path in filter(None, map(self._path, ids)):
            path.unlink(missing_ok=True)

    def ids(self) -> Iterator[str]:
        """Of every picture there is, in order."""
        if self.folder is not None:
            yield from sorted(path.stem for path in self.folder.glob("*/*.jpg") if _UUID.match(path.stem))

    def _path(self, id: str) -> Path | None:
        if self.folder is None or not _UUID.match(id):
            return None
        return self.folder / id[:2] / f"{id}.jpg"
