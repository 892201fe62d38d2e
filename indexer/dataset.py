"""A dataset TOML and its table -> :class:`Record`\\ s, checked whole before the first image is read."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cxrsearch.clinical.fields import Payload
from cxrsearch.clinical.identity import Identity, Numbering
from cxrsearch.errors import ImageError, MappingError, Reason
from cxrsearch.text import tidy
from indexer import ages, negation
from indexer.folder import files, is_file, is_text
from indexer.mapping import DatasetMapping, FieldMapping
from indexer.mapping_file import load_mapping
from indexer.named_files import NamedFiles, columns_of
from indexer.patient_numbers import PatientNumbers, patient_numbers
from indexer.record import Record
from indexer.tables import SHOWN, Line, Table, read_table

Identifiers = dict[str, str | None]
# Rows of one file that are named before the rest is only counted.
_SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Image:
    """A file of a dataset, and the rows of the table that are of it; none without a table. name: of the file under
    the root, as the disk spells it."""

    key: str
    name: str
    problem: ImageError | None
    rows: list[Line]


@dataclass(frozen=True)
class Contradiction:
    """Rows of one file that say different things, and the fields in which they do."""

    rows: list[int]
    fields: list[str]

    def __str__(self) -> str:
        more = f" and {len(self.rows) - _SHOWN_ROWS} more" if len(self.rows) > _SHOWN_ROWS else ""
        rows = ", ".join(map(str, self.rows[:_SHOWN_ROWS]))
        return f"rows {rows}{more} are of one file and differ in {', '.join(self.fields)}"


@dataclass
class Dataset:
    """A mapping bound to a root folder. ``records()`` may be walked again and again.

    unselected: rows that [select] leaves out.
    unmatched: cells and names that the pattern of a field does not take, by field.
    unreadable: rows whose cell is no value of a field that leaves such cells missing, by field.
    contradictions: by the key of the image, which is rejected.
    numbers: what is odd about the numbers of patients in a table's column.
    """

    mapping: DatasetMapping
    root: Path
    table: Table | None
    images: list[Image]
    unselected: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, list[int]] = field(default_factory=dict)
    contradictions: dict[str, Contradiction] = field(default_factory=dict)
    numbers: PatientNumbers | None = None
    missing: frozenset[str] = field(init=False)
    numberings: Mapping[str, Numbering] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = frozenset(self.mapping.missing)
        self.numberings = self.mapping.numberings

    @functools.cached_property
    def notes(self) -> list[str]:
        """The text fields of which it is kept what they affirm, so that ``mentions`` finds it."""
        entering = self.mapping.entering.items()
        return [name for name, mapped in entering if mapped.language is not None] if negation.installed() else []

    @functools.cached_property
    def ages(self) -> dict[str, float]:
        """Of each field that says how old the patient is, how many of its units are in a year."""
        return ages.units_of(self.mapping.entering)

    def set_paths(self, way: Literal["relative", "hashed"]) -> None:
        """Keep paths otherwise than the mapping says."""
        privacy = self.mapping.privacy.model_copy(update={"paths": way})
        self.mapping = self.mapping.model_copy(update={"privacy": privacy})

    def rename(self, name: str) -> None:
        """Call it otherwise than the mapping does. Raises MappingError for what is no name."""
        try:
            self.mapping = DatasetMapping.model_validate({**self.mapping.model_dump(), "name": name})
        except ValidationError:
            raise MappingError("--name: letters, digits, dots, - and _, at most 64, a letter or digit first") from None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def repeated(self) -> list[list[int]]:
        """The rows of each file that is on several which agree."""
        several = [image for image in self.images if len(image.rows) > 1 and image.key not in self.contradictions]
        return [[line.number for line in image.rows] for image in several]

    @property
    def row_counts(self) -> dict[str, int]:
        """Rows of the table by what becomes of them; they add up to all of it. Empty without a table."""
        if self.table is None:
            return {}
        refused = sum(len(found.rows) for found in self.contradictions.values())
        read = len(self.table.rows) - self.unselected - refused
        return {"read": read, "refused": refused, "left out by [select]": self.unselected, "blank": self.table.blank}

    def records(self) -> Iterator[Record]:
        for image in self.images:
            payload, ids, _ = self._merged(image)
            problem, found = image.problem, self.contradictions.get(image.key)
            if found is not None:
                problem = ImageError(Reason.CONTRADICTION, str(found))
            row = image.rows[0].number if image.rows else None
            yield Record(image.key, self.root / image.name, row, payload, ids["patient"], ids["study"], problem)

    def complete(self, record: Record, header: Mapping[str, str]) -> tuple[Record, list[str]]:
        """The record with what the DICOM header tells, and the fields whose value there was unusable."""
        unusable: list[str] = []
        payload, ids = self._facts({}, record.key, header, unusable, dicom_only=True)
        whole = Record(
            record.key,
            record.path,
            record.row,
            record.payload | payload,
            ids["patient"] or record.patient,
            ids["study"] or record.study,
            record.problem,
        )
        return whole, unusable

    def row_hash(self, record: Record, identity: Identity) -> str:
        """Keyed. Changes when a fact of the record or the meaning of the mapping's DICOM fields changes."""
        dicom = {name: s.model_dump(mode="json") for name, s in self.mapping.sources.items() if s.dicom}
        privacy = self.mapping.privacy.model_dump(mode="json")
        facts = [
            record.payload,
            record.patient,
            record.study,
            dicom,
            privacy,
            *([negation.VERSION] if self.notes else []),
            *([{"ages": ages.VERSION}] if self.ages else []),
        ]
        return identity.row(json.dumps(facts, sort_keys=True, ensure_ascii=True))

    def find_contradictions(self) -> None:
        """Which files are on rows that contradict each other: none of their facts is better than the others."""
        for image in self.images:
            if len(image.rows) > 1 and (fields := self._merged(image)[2]):
                self.contradictions[image.key] = Contradiction([line.number for line in image.rows], fields)

    def _merged(self, image: Image) -> tuple[Payload, Identifiers, list[str]]:
        """The facts of all rows of an image: lists joined, gaps filled; and in which fields the rows differ."""
        payload, ids = self._facts(image.rows[0].cells if image.rows else {}, image.key, None)
        differing: dict[str, None] = {}
        for line in image.rows[1:]:
            more, more_ids = self._facts(line.cells, image.key, None)
            for name, value in more.items():
                known = payload.setdefault(name, value)
                if isinstance(known, list) and isinstance(value, list):
                    payload[name] = list(dict.fromkeys([*known, *value]))
                elif known != value:
                    differing[name] = None
            for kind, number in more_ids.items():
                ids[kind] = ids[kind] or number
                if number not in (None, ids[kind]):
                    differing[kind] = None
        return payload, ids, list(differing)

    def _facts(
        self,
        row: Mapping[str, str],
        key: str,
        header: Mapping[str, str] | None,
        unusable: list[str] | None = None,
        dicom_only: bool = False,
    ) -> tuple[Payload, Identifiers]:
        payload: Payload = {}
        ids: Identifiers = {"patient": None, "study": None}
        for name, source in self.mapping.sources.items():
            if dicom_only and source.dicom is None:
                continue
            raw = source.raw(row, key, header)
            if raw is None:
                continue
            if not isinstance(source, FieldMapping):
                ids[name] = self.numberings[name].number(raw)
                continue
            try:
                value = source.value(raw, self.missing)
            except ValueError:
                if unusable is not None:
                    unusable.append(name.removeprefix("fields."))
                elif source.unreadable == "error":
                    raise
                continue
            if value is not None:
                payload[name.removeprefix("fields.")] = value
        return payload, ids


def load(dataset: str, root: Path | None = None) -> Dataset:
    """The dataset named by a TOML file, a shipped mapping or a folder of DICOM files.

    ``root`` overrides the mapping's image root. Raises MappingError, which names the column and the row that are
    wrong, and never what a cell holds.
    """
    mapping, base = load_mapping(dataset)
    folder = root if root is not None else base / mapping.images.root
    if not folder.is_dir():
        raise MappingError(f"{folder}: no such folder. Say with --root where the images of {mapping.name!r} are.")
    if not is_text(str(folder.resolve())):
        raise MappingError(f"{folder}: the name of this folder is no text in UTF-8; rename it")
    if mapping.images.table is None:
        if column := next((f"{n}: column {s.column!r}" for n, s in mapping.sources.items() if s.column), None):
            raise MappingError(f"{mapping.name}: {column}: this mapping has no table to take a column from")
        images = [Image(*place, rows=[]) for place in files(folder, mapping.images.glob)]
        loaded = Dataset(mapping, folder, None, images)
    else:
        loaded = _of_table(mapping, folder, folder / mapping.images.table)
    if not loaded.images:
        what = "rows left after [select]" if loaded.table else f"files matching {', '.join(mapping.images.glob)}"
        raise MappingError(f"{mapping.name}: no {what} in {folder}. Is --root right?")
    _check_values(loaded)
    loaded.find_contradictions()
    if mapping.patient is not None and mapping.patient.column is not None:
        loaded.numbers = patient_numbers(
            [line for image in loaded.images for line in image.rows],
            mapping.patient,
            mapping.patient.column,
            loaded.missing,
        )
    return loaded


def _of_table(mapping: DatasetMapping, folder: Path, path: Path) -> Dataset:
    if not path.is_file():
        raise MappingError(f"{path}: no such table. Say with --root where the dataset {mapping.name!r} is.")
    location = mapping.images
    wanted = {f"{name}.column": s.column for name, s in mapping.sources.items() if s.column is not None}
    wanted |= {f"fields.{name}.column": s.column for name, s in mapping.fields.items() if s.column is not None}
    wanted |= {f"select.{name}": name for name in mapping.select}
    wanted |= {f"images.path ({{{name}}})": name for template in location.path for name in columns_of(template)}
    table = read_table(path, location.dialect, wanted, mapping.name)
    named = NamedFiles(folder, location.path, location.several, location.between)
    for line in table.inside:
        if any(is_file(folder / name) for _, name, _ in named.of(line.cells)):
            raise MappingError(
                f"{path.name}: line {line.number} is inside a cell that a quote ({location.quote}) opens on a line"
                " above, and names a file of its own. Close the quote, or take it out."
            )
    rows = [line for line in table.rows if _selected(mapping, line)]
    images: dict[str | int, Image] = {}
    for line in rows:
        for place in (places := named.of(line.cells)):
            images.setdefault(place[0], Image(*place, rows=[])).rows.append(line)
        if not places:  # rows that name no file are not of one file
            images[line.number] = Image(*named.nowhere(line.cells), rows=[line])
    return Dataset(mapping, folder, table, list(images.values()), len(table.rows) - len(rows))


def _selected(mapping: DatasetMapping, line: Line) -> bool:
    return all(tidy(line.cells[column]) in allowed for column, allowed in mapping.select.items())


def _check_values(dataset: Dataset) -> None:
    """Every distinct text of every mapped column and path is converted once, so that no run fails half way.

    Raises MappingError. Counts what the pattern of a field does not take.
    """
    problems = []
    for name, source in dataset.mapping.fields.items():
        if source.column is None and source.path is None:
            continue
        places: dict[str, list[int | None]] = {}
        for image in dataset.images:
            for line in image.rows or [Line(0, {})]:
                raw = source.raw(line.cells, image.key, None)
                places.setdefault(str(raw), []).append(line.number or None)
        for raw, rows in places.items():
            try:
                source.value(raw, dataset.missing)
            except ValueError as error:
                if source.unreadable == "missing":
                    dataset.unreadable.setdefault(name, []).extend(row or 0 for row in rows)
                    continue
                where = f"column {source.column!r}" if source.column else f"path {source.path!r}"
                what = "row" if source.column else "file"
                # Of a table no more than where to look: it may be any file, and this may be read by anybody.
                place, value = (f", row {rows[0]}", "") if rows[0] else ("", f" {tidy(raw)[:60]!r}")
                problems.append(
                    f"{where}{place}: the value{value} {error}"
                    f" ({len(rows)} {what}{'s' if len(rows) > 1 else ''}; field {name}, {source.type})"
                )
            else:
                dataset.unmatched[name] += len(rows) * source.unmatched(raw, dataset.missing)
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise MappingError(
            f"{dataset.mapping.images.table or dataset.mapping.name}: "
            + "\n  ".join(problems[:SHOWN])
            + more
            + "\n  Correct it, map it in values, or list it as missing."
        )
