"""Where a server's index has its thumbnails: a folder, or an address as of S3.

    PLACE/COLLECTION-3f2504e04f89   those of one index, by the first digits of its random name

Two servers may each have an index of one collection's name. Older versions wrote PLACE/COLLECTION; an index that names
that keeps it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cxrsearch.store.thumbnails import Thumbnails

_DIGITS = 12


def root_of(setting: str) -> str:
    """Under which those of every index are. Raises UsageError for an address that is none."""
    if "://" not in setting:
        return str(Path(setting).absolute())
    from cxrsearch.store.object_thumbnails import address_of

    return address_of(setting)


def own_place(root: str, collection: str, name: Any) -> str | None:
    """Where no other index has any. name: the random one of the index; None where it has none, as older versions'."""
    if not isinstance(name, str) or not re.fullmatch(r"[0-9a-f]{32}", name):
        return None
    return f"{_shared_place(root, collection)}-{name[:_DIGITS]}"


def place_of(root: str, collection: str, name: Any, named: str) -> str:
    """Of one index. named: the place that it says, perhaps as another machine has it mounted."""
    shared = _shared_place(root, collection)
    return shared if named.rpartition("/")[2] == collection else own_place(root, collection, name) or shared


def _shared_place(root: str, collection: str) -> str:
    return f"{root.rstrip('/')}/{collection}"


def is_place_of(named: str, collection: str) -> bool:
    """Whether what a collection names may be its thumbnails: a stranger's could name any folder."""
    last = named.rpartition("/")[2]
    if not re.fullmatch(rf"{re.escape(collection)}(-[0-9a-f]{{{_DIGITS}}})?", last):
        return False
    if "://" not in named:
        return Path(named).is_absolute() and "\0" not in named
    from cxrsearch.store.object_thumbnails import is_address

    return is_address(named)


def thumbnails_at(place: str, named_by_others: bool = False) -> Thumbnails:
    """Nothing is opened before a picture is asked for."""
    if "://" not in place:
        return Thumbnails(Path(place), named_by_others=named_by_others)
    from cxrsearch.store.object_thumbnails import ObjectThumbnails

    return ObjectThumbnails(place, named_by_others)
