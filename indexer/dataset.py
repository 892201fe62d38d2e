"""A dataset TOML and its table -> :class:`Record`\\ s, checked whole before the first image is read."""

from __future__ import annotations

import glob
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import ValidationError

from cxrsearch.clinical.fields import Payload
from cxrsearch.clinical.identity import Identity, Numbering
from cxrsearch.errors import MappingError
from cxrsearch.store import holds_index
from cxrsearch.text import nearest
from indexer.mapping import DatasetMapping, FieldMapping, load_mapping
from indexer.record import Record

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
# A million patients with a hundred facts each fit; a cell of a gigabyte, or ten million columns, do not.
_LARGEST_TABLE = 512 * 2**20
_LONGEST_HEADER = 2**20
# Bad cells shown before the rest is only counted.
_SHOWN_ERRORS = 3


@dataclass
class Dataset:
    """A mapping bound to a root folder. ``records()`` may be walked again and again."""

    mapping: DatasetMapping
    root: Path
    table: pd.DataFrame | None
    missing: frozenset[str] = field(init=False)
    numberings: Mapping[str, Numbering] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = frozenset(self.mapping.missing)
        self.numberings = self.mapping.numberings

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
        return sum(1 for _ in self._rows())

    def records(self) -> Iterator[Record]:
        for line, key, path, row, problem in self._rows():
            payload, ids = self._facts(row, key, None)
            yield Record(key, path, line, payload, ids["patient"], ids["study"], problem)

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
        facts = [record.payload, record.patient, record.study, dicom, self.mapping.privacy.model_dump(mode="json")]
        return identity.row(json.dumps(facts, sort_keys=True, ensure_ascii=True))

    def _facts(
        self,
        row: Mapping[str, str],
        key: str,
        header: Mapping[str, str] | None,
        unusable: list[str] | None = None,
        dicom_only: bool = False,
    ) -> tuple[Payload, dict[str, str | None]]:
        payload: Payload = {}
        ids: dict[str, str | None] = {"patient": None, "study": None}
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
                if unusable is None:
                    raise
                unusable.append(name.removeprefix("fields."))
                continue
            if value is not None:
                payload[name.removeprefix("fields.")] = value
        return payload, ids

    def _rows(self) -> Iterator[tuple[int | None, str, Path, dict[str, str], str | None]]:
        if self.table is None:
            yield from self._files()
            return
        columns = [str(c) for c in self.table.columns]
        for line, cells in zip(self.table.index, self.table.itertuples(index=False, name=None), strict=True):
            row = dict(zip(columns, cells, strict=True))
            if any(row[name] not in allowed for name, allowed in self.mapping.select.items()):
                continue
            key, path, problem = self._image(row)
            yield int(line), key, path, row, problem

    def _files(self) -> Iterator[tuple[int | None, str, Path, dict[str, str], str | None]]:
        """Every file that the globs find; a DICOMDIR is followed to the files it lists, and is none itself."""
        found = {p for pattern in self.mapping.images.glob for p in self.root.glob(pattern) if p.is_file()}
        folders = {folder for p in found for folder in p.relative_to(self.root).parents}
        indexes = {self.root / folder for folder in folders if holds_index(self.root / folder)}
        found = {p for p in found if indexes.isdisjoint(p.parents)}  # an index's thumbnails are no images of a dataset
        keys = {p.relative_to(self.root).as_posix(): p for p in found if p.name != "DICOMDIR"}
        for directory in sorted(p for p in found if p.name == "DICOMDIR"):
            folder = directory.parent.relative_to(self.root)
            keys |= {(folder / name).as_posix(): directory.parent / name for name in referenced_files(directory)}
        resolved = self.root.resolve()
        for key, path in sorted(keys.items()):
            inside = _stays_inside(key) and path.resolve().is_relative_to(resolved)
            yield None, key, path, {}, None if inside else "outside"

    def _image(self, row: dict[str, str]) -> tuple[str, Path, str | None]:
        template = self.mapping.images.path or ""
        key = _PLACEHOLDER.sub(lambda m: row[m.group(1)], template)
        if "*" in template:  # a cell is text, never a pattern
            pattern = _PLACEHOLDER.sub(lambda m: glob.escape(row[m.group(1)]), template)
            matches = sorted(self.root.glob(pattern)) if _stays_inside(key) else []
            if len(matches) != 1:
                return key, self.root / key, f"{len(matches)} files match {template!r}"
            key = matches[0].relative_to(self.root).as_posix()
        path = self.root / key
        if not _stays_inside(key) or not path.resolve().is_relative_to(self.root.resolve()):
            return key, path, "outside"
        return key, path, None


def referenced_files(directory: Path) -> list[str]:
    """The files a DICOMDIR lists (PS3.3 F.3.2.2, Referenced File ID), relative to its folder.

    Read as a data set: pydicom's FileSet is not for files one does not trust. Raises MappingError.
    """
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records = pydicom.dcmread(directory).get("DirectoryRecordSequence") or []
            ids = [record.get("ReferencedFileID") for record in records]
            parts = [[part] if isinstance(part, str) else list(map(str, part)) for part in ids if part]
    except Exception as error:
        raise MappingError(f"{directory.name}: not a DICOMDIR that can be read ({type(error).__name__})") from None
    return sorted({"/".join(part) for part in parts})


def _stays_inside(key: str) -> bool:
    return not key.startswith(("/", "\\")) and ".." not in re.split(r"[/\\]", key) and "\x00" not in key


def load(dataset: str, root: Path | None = None) -> Dataset:
    """The dataset named by a TOML file, a shipped mapping or a folder of DICOM files.

    ``root`` overrides the mapping's image root. Raises MappingError, which names the column, the row
    and the value that are wrong.
    """
    mapping, base = load_mapping(dataset)
    folder = root if root is not None else base / mapping.images.root
    if not folder.is_dir():
        raise MappingError(f"{folder}: no such folder. Say with --root where the images of {mapping.name!r} are.")
    table = _read_table(mapping, folder) if mapping.images.table is not None else None
    loaded = Dataset(mapping, folder, table)
    if table is not None:
        _check_columns(mapping, table)
        _check_values(loaded, table)
    elif column := next((f"{n}: column {s.column!r}" for n, s in mapping.sources.items() if s.column), None):
        raise MappingError(f"{mapping.name}: {column}: this mapping has no table to take a column from")
    if next(loaded._rows(), None) is None:
        what = f"files matching {', '.join(mapping.images.glob)}" if table is None else "rows left after [select]"
        raise MappingError(f"{mapping.name}: no {what} in {folder}. Is --root right?")
    return loaded


def _read_table(mapping: DatasetMapping, folder: Path) -> pd.DataFrame:
    path = folder / (mapping.images.table or "")
    if not path.is_file():
        raise MappingError(f"{path}: no such table. Say with --root where the dataset {mapping.name!r} is.")
    _check_table_size(path)
    try:
        table = pd.read_csv(
            path,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            encoding=mapping.images.encoding,
            sep="\t" if path.suffix == ".tsv" else ",",
        )
    except (UnicodeDecodeError, LookupError):
        raise MappingError(
            f"{path.name}: not text in {mapping.images.encoding}; set images.encoding (latin-1 is common)"
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise MappingError(f"{path.name}: not a table that can be read: {str(error).splitlines()[0][:160]}") from None
    table.index = pd.RangeIndex(2, len(table) + 2)  # the line a person sees in a spreadsheet
    return table


def _check_table_size(path: Path) -> None:
    """Raises MappingError for a table that would take the memory of the machine."""
    if path.stat().st_size > _LARGEST_TABLE:
        raise MappingError(f"{path.name}: larger than {_LARGEST_TABLE // 2**20} MiB; split the table")
    with path.open("rb") as file:
        if len(file.readline(_LONGEST_HEADER + 1)) > _LONGEST_HEADER:
            limit = _LONGEST_HEADER // 2**20
            raise MappingError(f"{path.name}: its first line is longer than {limit} MiB; not a table")


def _check_columns(mapping: DatasetMapping, table: pd.DataFrame) -> None:
    used = {f"{name}.column": s.column for name, s in mapping.sources.items() if s.column is not None}
    used |= {f"select.{name}": name for name in mapping.select}
    used |= {f"images.path ({{{name}}})": name for name in _PLACEHOLDER.findall(mapping.images.path or "")}
    known = [str(c) for c in table.columns]
    for place, column in used.items():
        if column not in known:
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise MappingError(
                f"{mapping.name}: {place}: {mapping.images.table} has no column {column!r}."
                f"{nearest(column, known)} Its columns: {listed}."
            )


def _check_values(dataset: Dataset, table: pd.DataFrame) -> None:
    """Every distinct cell of every mapped column is converted once, so that no run fails half way."""
    mapping = dataset.mapping
    chosen = table
    for column, allowed in mapping.select.items():
        chosen = chosen[chosen[column].isin(allowed)]
    problems = []
    for name, source in mapping.fields.items():
        if source.column is None:
            continue
        for cell, lines in chosen.groupby(source.column, sort=False).groups.items():
            try:
                source.value(str(cell), dataset.missing)
            except ValueError as error:
                problems.append(
                    f"column {source.column!r}, row {lines[0]}: the value {str(cell)[:60]!r} {error}"
                    f" ({len(lines)} row{'s' if len(lines) > 1 else ''}; field {name}, {source.type})"
                )
    if problems:
        more = f"\n  and {len(problems) - _SHOWN_ERRORS} more" if len(problems) > _SHOWN_ERRORS else ""
        raise MappingError(
            f"{mapping.images.table}: "
            + "\n  ".join(problems[:_SHOWN_ERRORS])
            + more
            + "\n  Correct the cell, map it in values, or list it as missing."
        )
