"""The files of a dataset that globs find, and what a file of a dataset may be.

A file's key is its path under the root in Unicode NFC, whichever form the disk has: a Mac writes accents apart (NFD),
and a folder that was on one has to stay the same dataset.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from cxrsearch.errors import ImageError, MappingError, Reason
from cxrsearch.imaging import isolated
from cxrsearch.store import holds_index

# What systems leave in folders.
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
_APPLE_DOUBLE = b"\x00\x05\x16\x07"  # RFC 1740: a Mac's notes on the file whose name follows ._
OUTSIDE = ImageError(Reason.OUTSIDE_ROOT, "the dataset names a file outside its folder")
# An image of a dataset: its key, its file under the root as the disk spells it, and why there is none to read. Text,
# because a Path takes a kilobyte and a dataset may have a million.
Place = tuple[str, str, ImageError | None]
_LINK = ImageError(
    Reason.OUTSIDE_ROOT, "a link to a folder, which is not followed; index the folder that it leads to by its own name"
)
_GONE = ImageError(Reason.UNREADABLE, "a link whose target is gone")


def files(root: Path, patterns: Sequence[str]) -> Iterator[Place]:
    """Every file that the globs find; a DICOMDIR is followed to the files it lists, and is none itself.

    Raises ImageError for a DICOMDIR that cannot be read, MappingError for a glob that is none.
    """
    try:
        every = {p for pattern in patterns for p in root.glob(pattern)}
    except (ValueError, NotImplementedError, IndexError) as error:
        raise MappingError(f"images.glob: {error}") from None
    found, gone = set[Path](), set[str]()
    for p in every:  # one question each: the folder may be on a slow network
        if is_file(p):
            if not is_litter(p):
                found.add(p)
        elif _is_gone(p) and not is_litter(p):
            gone.add(p.relative_to(root).as_posix())
    folders = {folder for p in found for folder in p.relative_to(root).parents}
    indexes = {root / folder for folder in folders if holds_index(root / folder)}
    found = {p for p in found if indexes.isdisjoint(p.parents)}  # an index's thumbnails are no images of a dataset
    names = gone | {p.relative_to(root).as_posix() for p in found if p.name != "DICOMDIR"}
    for directory in sorted(p for p in found if p.name == "DICOMDIR"):
        folder = directory.parent.relative_to(root)
        names |= {(folder / name).as_posix() for name in isolated.referenced_files(directory)}
    if any("**" in pattern for pattern in patterns):
        yield from ((composed(name), name, _LINK) for name in _linked_folders(root))
    for name in sorted(names):
        key = composed(name)
        if not is_text(name):
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            yield shown, name, ImageError(Reason.UNREADABLE, "its name is no text in UTF-8; rename the file")
        elif key != name and key in names:
            twin = "another file has this name, with accents written otherwise; rename one"
            yield name, name, ImageError(Reason.UNREADABLE, twin)
        elif name in gone:
            yield key, name, _GONE
        else:
            yield key, name, unless_inside(root, root / name) if stays_inside(name) else OUTSIDE


def _linked_folders(root: Path) -> list[str]:
    """Links to folders under the root, which ``**`` of a glob passes over."""
    found = [
        os.path.relpath(os.path.join(place, name), root)
        for place, folders, _ in os.walk(root)
        for name in folders
        if os.path.islink(os.path.join(place, name))  # noqa: PTH114
    ]
    return sorted(Path(name).as_posix() for name in found if is_text(name))


def _is_gone(path: Path) -> bool:
    """Whether a path is a link to nothing."""
    return path.is_symlink() and not path.exists()


def unless_inside(root: Path, path: Path) -> ImageError | None:
    """A link may lead out of the folder."""
    return None if path.resolve().is_relative_to(root.resolve()) else OUTSIDE


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def apart(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def is_litter(path: Path) -> bool:
    """Whether a file is a system's own and no part of a dataset."""
    if path.name in _LITTER or "__MACOSX" in path.parts:
        return True
    if not path.name.startswith("._"):
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) in (_APPLE_DOUBLE, b"")
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """False for a name that no file can have, at which pathlib fails."""
    return os.path.isfile(path)  # noqa: PTH113


def is_text(name: str) -> bool:
    """Whether a name of the file system is text: Python reads other bytes as halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def stays_inside(key: str) -> bool:
    return not key.startswith(("/", "\\")) and ".." not in re.split(r"[/\\]", key) and "\x00" not in key
