"""The settings there are, and where pydantic-settings reads them: the environment, then files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cxrsearch.errors import InputError
from cxrsearch.text import nearest

PREFIX = "CXRSEARCH_"
# Taken from a file in the working folder, which may be a stranger's: nothing that a key, an embedding or a picture of a
# patient could be sent or written to, and no model.
HARMLESS = ("index", "fields", "qdrant_timeout")
# From the environment only, and never shown.
SECRET = ("qdrant_api_key",)
_LARGEST_FILE = 100_000


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    index: str | None = Field(None, description="the index of every command that takes --index")
    fields: str | None = Field(None, description="the facts that tables show, as a,b,c; else what is known")
    model: str | None = Field(None, description="the model folder; else the one that ships")
    models: str | None = Field(None, description="folder of imported models; else <data folder>/cxrsearch/models")
    key_file: str | None = Field(None, description="the pseudonym key; else <config folder>/cxrsearch/key")
    thumbnails: str | None = Field(
        None, description="folder, or address as of S3, for the thumbnails of an index on a server; else none are kept"
    )
    qdrant_timeout: str | None = Field(None, description="seconds before a request to a server is given up; else 30")
    qdrant_api_key: str | None = Field(None, description="API key of a Qdrant server; else none")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: load() puts the sources in their order."""
        return (init_settings,)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def load(working: Path | None, own: Path | None, own_folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """Of every setting, its value and the variable or file that gave it. Raises InputError.

    own_folder: where the user's own file goes, for the message about a setting that the working folder's may not have.
    """
    found: dict[str, tuple[str | None, str | None]] = dict.fromkeys(Settings.model_fields, (None, None))
    for path in (own, working):
        if path is not None:
            values = _read(path)
            if path is working:
                _check_harmless(path, values, own_folder)
            found |= {name: (value, str(path)) for name, value in values.items()}
    environment = EnvSettingsSource(Settings)()
    return found | {name: (str(value), variable(name)) for name, value in environment.items()}


def _read(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: larger than any settings file")
        with path.open("rb"):  # pydantic-settings passes over a file that is not there
            data = TomlConfigSettingsSource(Settings, path)()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML ({str(error)[:80]})") from None
    known = [name for name in Settings.model_fields if name not in SECRET]
    # Before pydantic sees them: what begins with _ would steer how BaseSettings reads.
    if (unknown := next((name for name in data if name not in Settings.model_fields), None)) is not None:
        near = nearest(unknown, known)
        raise InputError(f"{path}: {unknown[:40]}: no such setting.{near} Settings: {', '.join(known)}")
    if secret := next((name for name in data if name in SECRET), None):
        raise InputError(f"{path}: {secret}: comes from {variable(secret)} only. Settings: {', '.join(known)}")
    try:
        settings = Settings(**{name: str(value) if type(value) is int else value for name, value in data.items()})
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        raise InputError(f"{path}: {name}: give a text in quotes or a whole number") from None
    return {name: str(getattr(settings, name)) for name in data}


def _check_harmless(path: Path, values: dict[str, str], own_folder: Path) -> None:
    own = own_folder / path.name
    for name, value in values.items():
        if name not in HARMLESS:
            raise InputError(
                f"{path}: {name}: not taken from a working folder, whose files may be a stranger's."
                f" Set it in {own} or by {variable(name)}"
            )
        if name == "index" and "://" in value:
            raise InputError(f"{path}: index: a server is named in {own} or by --index, not here")
