"""Which mapping a dataset's name means, read from its TOML, with errors that say which key."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ValidationError

from cxrsearch.errors import MappingError
from cxrsearch.text import nearest
from cxrsearch.validation import first_problem
from indexer.mapping import DatasetMapping, FieldMapping, Identifier, ImageLocation
from indexer.privacy import Privacy
from indexer.sheets import PARQUET, WORKBOOKS

TABLES = frozenset({".csv", ".tsv", PARQUET, *WORKBOOKS})
_LARGEST_TOML = 1_000_000
_PARTS: Mapping[str, type[BaseModel]] = {
    "images": ImageLocation,
    "patient": Identifier,
    "study": Identifier,
    "fields": FieldMapping,
    "privacy": Privacy,
}


def shipped() -> list[str]:
    """Names of the mappings that come with the package."""
    folder = resources.files("indexer") / "datasets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_mapping(dataset: str) -> tuple[DatasetMapping, Path]:
    """The mapping named by a TOML file, a shipped name or a folder of DICOM files, and the folder
    its image root is relative to.

    Raises MappingError.
    """
    path = Path(dataset)
    if path.suffix.lower() in TABLES and path.is_file():
        raise MappingError(f"{dataset}: a table, and index wants a mapping of it. {init_command(path, 'DIR')}")
    if path.is_dir():
        return _parse(_shipped_text("dicom-folder"), "dicom-folder"), path
    if path.name == "DICOMDIR" and path.is_file():
        mapping = _parse(_shipped_text("dicom-folder"), "dicom-folder")
        images = mapping.images.model_copy(update={"glob": ["DICOMDIR"]})
        return mapping.model_copy(update={"images": images}), path.parent
    if path.suffix == ".toml" or path.exists():
        try:
            if path.stat().st_size > _LARGEST_TOML:
                raise MappingError(f"{dataset}: larger than 1 MB; a dataset TOML holds a mapping, not data")
            return _parse(path.read_text("utf-8"), dataset), path.parent
        except UnicodeDecodeError:
            raise MappingError(
                f"{dataset}: not a text file in UTF-8; write a dataset TOML (docs/reference/mapping.md)"
            ) from None
        except OSError as error:
            raise MappingError(f"{dataset}: cannot be read ({error.strerror})") from None
    if dataset in shipped():
        return _parse(_shipped_text(dataset), dataset), Path()
    raise MappingError(
        f"{dataset}: no such file, and no shipped mapping of that name.{nearest(dataset, shipped())}"
        f" Shipped: {', '.join(shipped())}."
    )


def init_command(table: Path, images: str) -> str:
    """What to type for a mapping of a table."""
    return f"Draft one: cxrsearch init {shlex.quote(str(table))} --images {shlex.quote(images)}"


def tables_in(folder: Path) -> list[Path]:
    """The tables that lie in a folder, not below; none where it is no folder that can be read."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLES) if folder.is_dir() else []
    except OSError:
        return []


def _shipped_text(name: str) -> str:
    return (resources.files("indexer") / "datasets" / f"{name}.toml").read_text("utf-8")


def _parse(text: str, name: str) -> DatasetMapping:
    try:
        return DatasetMapping.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"{name}: not valid TOML: {error}") from None
    except RecursionError:
        raise MappingError(f"{name}: nested too deeply for a dataset TOML") from None
    except ValidationError as error:
        raise MappingError(f"{name}: {first_problem(error, DatasetMapping, _PARTS)}") from None
