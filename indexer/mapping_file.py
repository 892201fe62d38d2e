"""Which mapping a dataset's name means, read from its TOML, with errors that say which key."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ValidationError

from cxrsearch.errors import MappingError
from cxrsearch.text import nearest
from indexer.mapping import DatasetMapping, FieldMapping, Identifier, ImageLocation
from indexer.privacy import Privacy

_LARGEST_TOML = 1_000_000


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
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the mapping"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = _keys_at(first["loc"])
            what = f"no such key.{nearest(str(first['loc'][-1]), known)}"
        raise MappingError(f"{name}: {place}: {what}") from None


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "images": ImageLocation,
        "patient": Identifier,
        "study": Identifier,
        "fields": FieldMapping,
        "privacy": Privacy,
    }
    model = models.get(str(location[0]), DatasetMapping) if len(location) > 1 else DatasetMapping
    return list(model.model_fields)
