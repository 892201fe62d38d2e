"""The files that the rows of a table name, by the path templates of a mapping.

A template takes cells: ``{column}`` as it stands, ``{column:name}`` the last part of a path, ``{column:stem}`` that
without its ending, ``{column:08}`` with zeros in front. A ``*`` stands for any part of a name, ``**`` for any folders.
"""

from __future__ import annotations

import itertools
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from cxrsearch.errors import ImageError, Reason
from cxrsearch.text import tidy
from indexer.folder import OUTSIDE, Place, apart, composed, is_file, is_litter, stays_inside, unless_inside
from indexer.numbers import whole

_PLACEHOLDER = re.compile(r"\{([^{}]+?)(?::(name|stem|0[0-9]{1,2}))?\}")
_WILDCARDS = re.compile(r"(\*\*/|\*+)")


def columns_of(template: str) -> list[str]:
    """The columns that a template takes cells of, tidy."""
    return [tidy(found[1]) for found in _PLACEHOLDER.finditer(template)]


def _slashed(cell: str) -> str:
    return tidy(cell).replace("\\", "/")


# How a cell may have to be read before there is such a file: as it stands; tidied; accents in either form; a path as
# Windows writes it; a whole number as spreadsheets write it.
_CHANGES: Sequence[Callable[[str], str]] = (
    str,
    tidy,
    composed,
    apart,
    lambda cell: apart(tidy(cell)),
    _slashed,
    lambda cell: whole(tidy(cell)),
)


class NamedFiles:
    """The files under ``root`` that rows name by ``templates``.

    several: a template may match several files. between: what stands between several names in a cell.
    """

    def __init__(self, root: Path, templates: Sequence[str], several: bool = False, between: str | None = None) -> None:
        self._root, self._templates, self._several, self._between = root, templates, several, between

    def of(self, row: Mapping[str, str]) -> list[Place]:
        """The files of a row; one that is not there where none is. Empty for a row that names no file."""
        places: dict[str, Place] = {}
        for template in self._templates:
            columns = columns_of(template)
            if not all(tidy(row[column]) for column in columns):
                continue
            parts = [self._names(row[column]) for column in columns]
            for cells in itertools.product(*parts):
                for place in self._files(template, dict(zip(columns, cells, strict=True))):
                    places.setdefault(place[0], place)
        return list(places.values())

    def nowhere(self, row: Mapping[str, str]) -> Place:
        """What stands for the file of a row that names none."""
        name = _filled(self._templates[0], row, tidy)
        return name, name, ImageError(Reason.MISSING, "its row names no file")

    def _names(self, cell: str) -> list[str]:
        if self._between is None:
            return [cell]
        return [part for part in cell.split(self._between) if tidy(part)]

    def _files(self, template: str, row: Mapping[str, str]) -> list[Place]:
        """What one template finds: cells as they stand if there is such a file, else read in other ways."""
        tidied = _filled(template, row, tidy)
        for change in _CHANGES:
            name = _filled(template, row, change)
            if not stays_inside(name):
                return [(tidied, tidied, OUTSIDE)]
            if "*" in template:
                found = self._matches(template, row, change)
                if len(found) > 1 and not self._several:
                    why = f"{len(found)} files match {template!r}; several = true under [images] takes all"
                    return [(tidied, tidied, ImageError(Reason.MISSING, why))]
            else:
                found = [name] if is_file(self._root / name) else []
            if found:
                return [(_key(one), one, unless_inside(self._root, self._root / one)) for one in found]
        none = ImageError(Reason.MISSING, f"0 files match {template!r}") if "*" in template else None
        return [(_key(tidied), tidied, none or unless_inside(self._root, self._root / tidied))]

    def _matches(self, template: str, row: Mapping[str, str], change: Callable[[str], str]) -> list[str]:
        """The files that a template with a * finds; a cell is text in it, never a pattern."""
        pattern = re.compile("".join(_pattern_of(template, row, change)))
        last = template.rpartition("/")[2]
        begins = _filled(last.partition("*")[0], row, change)
        if "/" in begins:  # a cell with folders in it
            begins = begins.rpartition("/")[2]
        return [name for name in self._beginning_with(begins) if pattern.fullmatch(name)]

    def _beginning_with(self, begins: str) -> Iterator[str]:
        names = self._listing
        for n in range(bisect_left(names, (begins,)), len(names)):
            last, path = names[n]
            if not last.startswith(begins):
                return
            yield path

    @cached_property
    def _listing(self) -> list[tuple[str, str]]:
        """Every file below the folder that all templates begin with: its name and its path under the root, sorted.

        Listed once: a glob for each row of a large table would read the whole folder each time.
        """
        starts = [re.split(r"[{*]", template)[0].rpartition("/")[0] for template in self._templates]
        base = os.path.commonpath(starts) if all(starts) else ""
        found = []
        for place, _, names in os.walk(self._root / base):
            folder = PurePosixPath(os.path.relpath(place, self._root))
            found += [(name, (folder / name).as_posix()) for name in names if not is_litter(Path(place) / name)]
        return sorted(found)


def _key(name: str) -> str:
    """One for each file, there or not, however its path is spelt."""
    return composed(os.path.normpath(name))


def _filled(template: str, row: Mapping[str, str], change: Callable[[str], str]) -> str:
    return _PLACEHOLDER.sub(lambda found: _cell(found, row, change), template)


def _cell(found: re.Match[str], row: Mapping[str, str], change: Callable[[str], str]) -> str:
    text, part = change(row[tidy(found[1])]), found[2]
    if part == "name":
        return re.split(r"[/\\]", text)[-1]
    if part == "stem":
        return PurePosixPath(re.split(r"[/\\]", text)[-1]).stem
    return text.zfill(int(part)) if part else text


def _pattern_of(template: str, row: Mapping[str, str], change: Callable[[str], str]) -> Iterator[str]:
    """The parts of a regular expression for what a template finds."""
    place = 0
    for found in [*_PLACEHOLDER.finditer(template), None]:
        literal = template[place : found.start() if found else None]
        for piece in _WILDCARDS.split(literal):
            yield {"**/": "(?:[^/]+/)*", "*": "[^/]*", "**": ".*"}.get(piece, re.escape(piece))
        if found is not None:
            yield re.escape(_cell(found, row, change))
            place = found.end()
