"""Which images of a configuration its lists leave out (``leave_out`` of [[data]])."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from itertools import takewhile
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
        found: set[str] = set()
        for data in those:
            keys: dict[str, list[str]] = {}
            for image in data.images:
                keys.setdefault(PurePosixPath(image.key).name, []).append(image.key)
            for entry in entries:
                meant = _agreeing(entry, keys.get(PurePosixPath(entry).name, []))
                out |= {(data.mapping.name, key) for key in meant}
                found |= {entry} if meant else set()
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


def _agreeing(entry: str, keys: Sequence[str]) -> list[str]:
    """Of keys with the file name of ``entry`` those whose folders agree with it furthest, from the file on."""

    def depth(key: str) -> int:
        both = zip(reversed(PurePosixPath(entry).parts), reversed(PurePosixPath(key).parts), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))

    furthest = max(map(depth, keys), default=0)
    return [entry] if "/" in entry and entry in keys else [key for key in keys if depth(key) == furthest]
