"""Which columns of a table name the images of a folder, and by which path templates.

Each way a cell may name a file is tried on every cell of every column, and the way that finds the most files wins.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cxrsearch.text import tidy
from indexer.folder import files
from indexer.numbers import whole
from indexer.tables import Line

# What lies beside images and is none.
_NO_IMAGES = frozenset(
    {".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".parquet", ".toml", ".json", ".jsonl", ".md",
     ".pdf", ".html", ".htm", ".xml", ".zip", ".gz", ".py", ".log", ".doc", ".docx", ".rtf", ".db", ".npy", ".npz"}
)  # fmt: skip
# Rows of which another column has to name further files before it is taken for one of several.
_ANOTHER = 0.1
_BETWEEN = (";", "|", ",", " ")
_JOINT = re.compile(r"[-_. ]")


@dataclass
class Matching:
    """How rows name files.

    templates: for images.path. columns: those in them. several, between: as in the mapping.
    found: the keys of the files that each row names, by its number, of rows that name one.
    unnamed: images that no row names.
    ambiguous: rows whose template matches several files which may not be of one person.
    """

    templates: list[str]
    columns: list[str]
    several: bool
    between: str | None
    found: dict[int, list[str]]
    unnamed: list[str] = field(default_factory=list)
    ambiguous: int = 0

    @property
    def files(self) -> int:
        """How many files are named."""
        return len({name for names in self.found.values() for name in names})


@dataclass
class _Candidate:
    template: str
    columns: list[str]
    several: bool
    between: str | None
    found: dict[int, list[str]]  # files by row
    ambiguous: int

    @property
    def score(self) -> tuple[int, bool, int]:
        """Better with more names that are of one file, or group, alone: a folder of all files tells none apart."""
        return (
            len({tuple(names) for names in self.found.values()}) - self.ambiguous,
            not self.several,
            -len(self.template),
        )


def images_below(root: Path) -> list[str]:
    """The keys of the files under a folder that may be images, sorted."""
    found = (key for key, _, problem in files(root, ["**/*"]) if problem is None)
    return sorted(key for key in found if PurePosixPath(key).suffix.lower() not in _NO_IMAGES)


def match(rows: Sequence[Line], columns: Iterable[str], images: Sequence[str]) -> Matching | None:
    """How the rows name these images; None where no cell of any column names one."""
    known = _Files(images)
    cells = {column: {line.number: tidy(line.cells[column]) for line in rows} for column in columns}
    candidates = [found for column in cells for found in _candidates(column, cells, known)]
    best = max(candidates, key=lambda one: one.score, default=None)
    if best is None or not best.found:
        return None
    chosen, named = [best], {name for found in best.found.values() for name in found}
    for other in sorted(candidates, key=lambda one: one.score, reverse=True):
        new = [row for row, found in other.found.items() if not set(found) & named]
        if other.columns != best.columns and other.between == best.between and len(new) >= _ANOTHER * len(rows):
            chosen.append(other)
            named |= {name for found in other.found.values() for name in found}
    return Matching(
        [one.template for one in chosen],
        list(dict.fromkeys(column for one in chosen for column in one.columns)),
        any(one.several for one in chosen),
        best.between,
        {row: [name for one in chosen for name in one.found.get(row, ())] for one in chosen for row in one.found},
        [name for name in images if name not in named],
        best.ambiguous,
    )


class _Files:
    """Images by every text that may name them."""

    def __init__(self, images: Sequence[str]) -> None:
        self.tails, self.stems = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        self.folders, self.starts = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        digits: Counter[int] = Counter()
        for key in images:
            path = PurePosixPath(key)
            for n in range(len(path.parts)):
                tail = "/".join(path.parts[n:])
                self.tails[tail].append(key)
                self.stems[tail[: len(tail) - len(path.suffix)]].append(key)
            if len(path.parts) > 1:
                self.folders[path.parent.name].append(key)
            for found in _JOINT.finditer(path.stem):
                self.starts[path.stem[: found.start()]].append(key)
            if path.stem.isdecimal():
                digits[len(path.stem)] += 1
        self.padding = digits.most_common(1)[0][0] if digits else 0


def _candidates(column: str, cells: Mapping[str, Mapping[int, str]], known: _Files) -> Iterable[_Candidate]:
    texts = {row: text.replace("\\", "/") for row, text in cells[column].items() if text}
    for way in (_by_tail, _by_stem, _by_name, _by_name_stem, _by_padding):
        yield _looked_up(column, texts, known, way)
    yield _in_folders(column, texts, known)
    yield _beginning(column, texts, known)
    for between in _BETWEEN:
        if any(between in text for text in texts.values()):
            for way in (_by_tail, _by_stem):
                yield _looked_up(column, texts, known, way, between)
    for other, others in cells.items():  # the folder is in a column of its own
        if other != column and any(text in known.folders for text in set(others.values())):
            joined = {row: f"{others[row]}/{text}" for row, text in texts.items() if others[row]}
            for way in (_by_tail, _by_stem):
                found = _looked_up(column, joined, known, way)
                found.template = found.template.replace(f"{{{column}", f"{{{other}}}/{{{column}", 1)
                found.columns = [other, column]
                yield found


def _by_tail(text: str, known: _Files) -> tuple[list[str], str]:
    return known.tails.get(text, []), ""


def _by_stem(text: str, known: _Files) -> tuple[list[str], str]:
    return known.stems.get(text) or known.stems.get(whole(text), []), ""


def _by_name(text: str, known: _Files) -> tuple[list[str], str]:
    return known.tails.get(text.rpartition("/")[2], []) if "/" in text else [], ":name"


def _by_name_stem(text: str, known: _Files) -> tuple[list[str], str]:
    path = PurePosixPath(text)
    return known.stems.get(path.stem, []) if path.suffix or "/" in text else [], ":stem"


def _by_padding(text: str, known: _Files) -> tuple[list[str], str]:
    number, part = whole(text), f":{known.padding:02}"
    if number.isdecimal() and 0 < len(number) <= known.padding:
        return known.stems.get(number.zfill(known.padding), []), part
    return known.stems.get(text, []) if 0 < known.padding <= len(text) else [], part


_Way = Callable[[str, _Files], tuple[list[str], str]]


def _looked_up(
    column: str, texts: Mapping[int, str], known: _Files, way: _Way, between: str | None = None
) -> _Candidate:
    """What one way finds, and the template of it: folder and ending where all files share them."""
    found, part, ambiguous = {}, "", 0
    starts, ends = set(), set()
    for row, text in texts.items():
        names: list[str] = []
        for one in [text] if between is None else filter(None, map(tidy, text.split(between))):
            matches, suffix = way(one, known)
            part = suffix if matches else part
            ambiguous += len(matches) > 1 and len(names) == 0
            names += matches
            for name in matches:
                named = _named(name, one, way)
                starts.add(name[: name.rindex(named)])
                ends.add(name[name.rindex(named) + len(named) :])
        if names:
            found[row] = names
    start = starts.pop() if len(starts) == 1 else "**/" if starts else ""
    end = ends.pop() if len(ends) == 1 else ".*" if ends else ""
    return _Candidate(f"{start}{{{column}{part}}}{end}", [column], False, between, found, ambiguous)


def _named(name: str, text: str, way: _Way) -> str:
    """The part of a file's name that a cell stands for."""
    if way is _by_tail:
        return text
    if way is _by_name:
        return PurePosixPath(name).name
    if way is _by_stem and text in name:
        return text
    return PurePosixPath(name).stem


def _in_folders(column: str, texts: Mapping[int, str], known: _Files) -> _Candidate:
    """Rows that name a folder, whose files are all theirs."""
    found = {row: known.folders[text] for row, text in texts.items() if text in known.folders}
    above = {str(PurePosixPath(name).parent.parent) for names in found.values() for name in names}
    return _Candidate(f"{_start(above)}{{{column}}}/*", [column], True, None, found, 0)


def _beginning(column: str, texts: Mapping[int, str], known: _Files) -> _Candidate:
    """Rows that name how names of files begin: each of several files, or of one with more in its name."""
    found = {row: known.starts[text] for row, text in texts.items() if text in known.starts}
    above = {str(PurePosixPath(name).parent) for names in found.values() for name in names}
    after = Counter(PurePosixPath(names[0]).stem[len(texts[row])] for row, names in found.items())
    joint = after.most_common(1)[0][0] if after else ""
    return _Candidate(f"{_start(above)}{{{column}}}{joint}*", [column], True, None, found, 0)


def _start(folders: set[str]) -> str:
    """The beginning of a template for files in these folders."""
    if len(folders) != 1:
        return "**/"
    folder = next(iter(folders))
    return "" if folder == "." else f"{folder}/"
