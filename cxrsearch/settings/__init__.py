"""What is set once and not on every command line: by environment variable, else in a file ``cxrsearch.toml``.

A flag of a command goes before both. The user's own file is the one that CXRSEARCH_CONFIG names, else
``<config folder>/cxrsearch/cxrsearch.toml``. A file in the working folder goes before it, and may set no more than
sources.HARMLESS: it may have come with an unpacked archive. ``cxrsearch config`` shows what was set where.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cxrsearch.errors import UsageError

FILE = "cxrsearch.toml"
PREFIX = "CXRSEARCH_"


@dataclass(frozen=True)
class Given:
    """The value of a setting and what it comes from, a variable or a file; both None where nothing sets it."""

    value: str | None
    source: str | None


def given(name: str) -> Given:
    """Raises InputError for a settings file that cannot be used."""
    working, own = files()
    if not (working or own or any(variable.startswith(PREFIX) for variable in os.environ)):
        return Given(None, None)  # nothing is set: pydantic-settings takes a tenth of a second to import
    from cxrsearch.settings.sources import load

    return Given(*load(working, own, own_folder())[name])


def files() -> tuple[Path | None, Path | None]:
    """The settings file of the working folder and the user's own, each None where there is none."""
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        return None, Path(named)
    working, own = Path(FILE), own_folder() / FILE
    if not own.is_file():
        return working if working.is_file() else None, None
    return working if working.is_file() and not working.samefile(own) else None, own


def own_folder() -> Path:
    """Where the user's own settings file and pseudonym key are."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "cxrsearch"


def qdrant_api_key() -> str | None:
    return given("qdrant_api_key").value


def qdrant_timeout() -> int:
    found = given("qdrant_timeout")
    text = found.value or "30"
    if not text.isdigit() or not 1 <= int(text) <= 3600:
        variable = f"{PREFIX}QDRANT_TIMEOUT"
        where = variable if found.source == variable else f"{found.source}: qdrant_timeout"
        raise UsageError(f"{where}={text[:20]!r}: give whole seconds from 1 to 3600")
    return int(text)


def key_file() -> Path:
    found = given("key_file").value
    return Path(found) if found else own_folder() / "key"


def thumbnails() -> str | None:
    """A folder, or an address."""
    return given("thumbnails").value or None


def models_folder() -> Path:
    """Where imported models are, a folder each."""
    found = given("models").value
    if found:
        return Path(found)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "cxrsearch" / "models"
