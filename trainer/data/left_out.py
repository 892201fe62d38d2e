"""Which images of a configuration its lists leave out (``leave_out`` of [[data]])."""

from __future__ import annotations

import csv
import logging
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath

from cxrsearch.errors import InputError
from cxrsearch.text import clean
from indexer.dataset import Dataset
from trainer.config import Config

_log = logging.getLogger("cxrsearch")


def listed(config: Config, sets: Sequence[Dataset]) -> set[tuple[str, str]]:
    """The dataset and key of each image that a list of its dataset leaves out.

    A path means the images whose paths agree with it furthest, from the file name on; a name those of any folder.
    Raises InputError for a list that cannot be read, or has no image of any dataset that it is given for.
    """
    given: dict[str, list[Dataset]] = {}
    for data, description in zip(sets, config.data, strict=True):
        for path in description.leave_out:
            given.setdefault(path, []).append(data)
    out: set[tuple[str, str]] = set()
    for path, those in given.items():
        try:
            lines = Path(path).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: a list of images to leave out, which cannot be read ({error})") from None
        entries = [row[0].strip() for row in csv.reader(lines) if row and row[0].strip()]
        listed_names, found = {PurePosixPath(entry).name for entry in entries}, set[str]()
        for data in those:
            keys = {image.key for image in data.images}
            ends = _by_end(key for key in keys if PurePosixPath(key).name in listed_names)
            agreeing: set[tuple[str, ...]] = set()  # many entries may agree with the same images
            for entry in entries:
                if "/" in entry and entry in keys:
                    out.add((data.mapping.name, entry))
                    found.add(entry)
                elif end := _longest_end(entry, ends):
                    agreeing.add(end)
                    found.add(entry)
            out |= {(data.mapping.name, key) for end in agreeing for key in ends[end]}
        names = ", ".join(data.mapping.name for data in those)
        if entries and not found:
            raise InputError(
                f"{path}: none of the {len(entries)} images to leave out is in {names}; the first is"
                f" {clean(entries[0])!r}. In the first column, parted by commas, belong file names or paths"
            )
        # The first line may be a header.
        if unknown := len(set(entries[1:]) - found):
            _log.warning(f"{path}: {unknown} of the images to leave out are not in {names}")
    return out


def _by_end(keys: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """The keys by each end of their paths, in parts, from the file name alone to the whole."""
    found: dict[tuple[str, ...], list[str]] = {}
    for key in keys:
        parts = PurePosixPath(key).parts
        for start in range(len(parts)):
            found.setdefault(parts[start:], []).append(key)
    return found


def _longest_end(entry: str, ends: Container[tuple[str, ...]]) -> tuple[str, ...]:
    """Of the ends of the path ``entry`` the longest that is one of ``ends``; empty where none is."""
    parts = PurePosixPath(entry).parts
    return next((parts[start:] for start in range(len(parts)) if parts[start:] in ends), ())
