"""Thumbnails at an address, as of S3, for an index on a server: every machine sees them without a folder of its own.

    s3://bucket/pictures/COLLECTION/3f/3f2504e0-....jpg

By fsspec, imported when a picture is first asked for. It finds its credentials as the store's own tools do, in the
environment or their files: none is ever part of an address, and no error repeats the store's words. Such stores keep
checksums themselves, so there is no list of them here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

from cxrsearch.errors import IndexUnavailable, UsageError
from cxrsearch.store.thumbnails import JPEG, LARGEST, UUID, Thumbnails

# What an index may name: stores of objects, and none that reads this machine's files or asks any web server.
PROTOCOLS = ("s3", "gs", "az", "abfs", "memory")
_ADDRESS = re.compile(rf"({'|'.join(PROTOCOLS)})://[A-Za-z0-9][\w.-]*(/[\w.-]+)*")
# Seconds; a search waits once for a store that does not answer.
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 1}}}


def is_address(text: str) -> bool:
    """Whether a place of thumbnails is no folder but such an address."""
    return _ADDRESS.fullmatch(text) is not None and "/../" not in f"{text}/"


def address_of(text: str) -> str:
    """The address that a setting gives. Raises UsageError, which does not repeat it: it may hold a password."""
    if not is_address(address := text.rstrip("/")):
        what = f"an address begins with {', '.join(f'{one}://' for one in PROTOCOLS[:-1])} and has a bucket and folders"
        raise UsageError(f"CXRSEARCH_THUMBNAILS: {what}; credentials go where the store's own tools look for them")
    return address


class ObjectThumbnails(Thumbnails):
    """The pictures of one index by point id, at an address. named_by_others: as for a folder."""

    def __init__(self, address: str, named_by_others: bool = False) -> None:
        super().__init__(None)
        self.place, self.keeps = address, not named_by_others
        self._root = address.partition("://")[2]
        self._is_silent = False

    def put(self, id: str, picture: bytes) -> None:
        if not self.keeps or not UUID.match(id):
            return
        with_what = "thumbnails cannot be written"
        self._try(with_what, lambda: self._files.pipe_file(self._object(id), picture))
        self._known.add(id)

    def has(self, id: str) -> bool:
        return id in self._known

    def get(self, id: str) -> bytes | None:
        """None also where the store does not answer: a search goes on without, and says so once."""
        if not UUID.match(id) or self._is_silent:
            return None
        try:
            picture: bytes = self._files.cat_file(self._object(id), start=0, end=LARGEST + 1)
        except FileNotFoundError:
            return None
        except Exception as error:  # of the store's library, whichever it is
            self._is_silent = True
            what = (
                f"{self.place}: no thumbnails ({_kind(error)}); hits have a picture only where their original is here"
            )
            logging.getLogger("cxrsearch").warning(what)
            return None
        return picture if len(picture) <= LARGEST and picture.startswith(JPEG) else None

    def remove(self, ids: Collection[str]) -> None:
        """Raises IndexUnavailable where the store does not answer: a forgotten patient's picture would stay."""
        if gone := [self._object(id) for id in ids if id in self._known]:
            self._try("thumbnails cannot be deleted", lambda: self._files.rm(gone))
            self._known.difference_update(ids)

    def remove_all(self) -> None:
        self.remove(set(self._known))

    def ids(self) -> Iterator[str]:
        yield from sorted(self._known)

    def problems(self) -> Iterator[str]:
        for id in self.ids():
            if self.get(id) is None:
                yield f"{self.place}/{id[:2]}/{id}.jpg: damaged, or the store does not answer"

    def is_reachable(self) -> bool:
        try:
            return self._known is not None
        except IndexUnavailable:
            return False

    @cached_property
    def _known(self) -> set[str]:
        """The ids of all pictures, asked for once: before many are written or deleted."""

        def listed() -> list[str]:
            self._files.invalidate_cache()
            try:
                return list(self._files.find(self._root))
            except FileNotFoundError:
                return []

        names = [
            path.rpartition("/")[2].removesuffix(".jpg") for path in self._try("thumbnails cannot be listed", listed)
        ]
        return {name for name in names if UUID.match(name)}

    @cached_property
    def _files(self) -> Any:
        import fsspec

        protocol = self.place.partition("://")[0]
        return fsspec.filesystem(protocol, **(_S3 if protocol == "s3" else {}))

    def _object(self, id: str) -> str:
        return f"{self._root}/{id[:2]}/{id}.jpg"

    def _try(self, what: str, ask: Any) -> Any:
        try:
            return ask()
        except Exception as error:
            raise IndexUnavailable(f"{self.place}: {what} ({_kind(error)}). Is the store there?") from None


def _kind(error: Exception) -> str:
    """The store's words may hold a key."""
    if isinstance(error, ImportError):
        return "its library is missing: pip install 'cxrsearch[s3]' for S3, gcsfs or adlfs for others"
    return type(error).__name__
