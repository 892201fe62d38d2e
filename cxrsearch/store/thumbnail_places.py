"""Where a server's index has its thumbnails: a folder, or an address as of S3."""

from __future__ import annotations

from pathlib import Path

from cxrsearch.store.thumbnails import Thumbnails


def place_of(setting: str, collection: str) -> str:
    """Of a collection, by what the setting says for all. Raises UsageError for an address that is none."""
    if "://" not in setting:
        return str(Path(setting).absolute() / collection)
    from cxrsearch.store.object_thumbnails import address_of

    return f"{address_of(setting)}/{collection}"


def is_place_of(named: str, collection: str) -> bool:
    """Whether what a collection names may be its thumbnails: a stranger's could name any folder."""
    if "://" not in named:
        return Path(named).is_absolute() and Path(named).name == collection and "\0" not in named
    from cxrsearch.store.object_thumbnails import is_address

    return is_address(named) and named.endswith(f"/{collection}")


def thumbnails_at(place: str, named_by_others: bool = False) -> Thumbnails:
    """Nothing is opened before a picture is asked for."""
    if "://" not in place:
        return Thumbnails(Path(place), named_by_others=named_by_others)
    from cxrsearch.store.object_thumbnails import ObjectThumbnails

    return ObjectThumbnails(place, named_by_others)
