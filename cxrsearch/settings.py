"""What is set once and not on every command line: by environment variable, else in ``cxrsearch.toml``.

A flag of a command goes before both. The file is the first there is of: the one that CXRSEARCH_CONFIG names,
``cxrsearch.toml`` in the working folder, ``<config folder>/cxrsearch/cxrsearch.toml``. ``cxrsearch config`` shows all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cxrsearch.errors import InputError, UsageError

FILE = "cxrsearch.toml"
_LARGEST_FILE = 100_000


@dataclass(frozen=True)
class Setting:
    """``secret``: from the environment only, and never shown."""

    name: str
    meaning: str
    secret: bool = False

    @property
    def variable(self) -> str:
        return f"CXRSEARCH_{self.name.upper()}"


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("index", "the index of every command that takes --index"),
        Setting("model", "the model folder; else the one that ships"),
        Setting("key_file", "the pseudonym key; else <config folder>/cxrsearch/key"),
        Setting("thumbnails", "folder for the thumbnails of an index on a server; else none are kept"),
        Setting("qdrant_timeout", "seconds before a request to a server is given up; else 30"),
        Setting("qdrant_api_key", "API key of a Qdrant server; else none", secret=True),
    )
}


@dataclass(frozen=True)
class Given:
    """The value of a setting and what it comes from, a variable or a file; both None where nothing sets it."""

    value: str | None
    source: str | None


def given(name: str) -> Given:
    """Raises InputError for a settings file that cannot be used."""
    setting = SETTINGS[name]
    if value := os.environ.get(setting.variable):
        return Given(value, setting.variable)
    path = file()
    if path is not None and (found := _read(path).get(name)) is not None:
        return Given(found, str(path))
    return Given(None, None)


def file() -> Path | None:
    """The settings file that is used, if there is one."""
    if named := os.environ.get("CXRSEARCH_CONFIG"):
        return Path(named)
    return next((path for path in (Path(FILE), _config_folder() / FILE) if path.is_file()), None)


def qdrant_api_key() -> str | None:
    return given("qdrant_api_key").value


def qdrant_timeout() -> int:
    found = given("qdrant_timeout")
    text = found.value or "30"
    if not text.isdigit() or not 1 <= int(text) <= 3600:
        where = (
            found.source if found.source == SETTINGS["qdrant_timeout"].variable else f"{found.source}: qdrant_timeout"
        )
        raise UsageError(f"{where}={text[:20]!r}: give whole seconds from 1 to 3600")
    return int(text)


def key_file() -> Path:
    found = given("key_file").value
    return Path(found) if found else _config_folder() / "key"


def thumbnails() -> Path | None:
    found = given("thumbnails").value
    return Path(found) if found else None


def _config_folder() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "cxrsearch"


def _read(path: Path) -> Mapping[str, str]:
    import tomllib  # most command lines have no such file

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: larger than any settings file")
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML ({str(error)[:80]})") from None
    known = [name for name, setting in SETTINGS.items() if not setting.secret]
    for name, value in data.items():
        if name not in known:
            why = f"comes from {SETTINGS[name].variable} only" if name in SETTINGS else "no such setting"
            raise InputError(f"{path}: {name[:40]}: {why}. Settings: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f"{path}: {name}: give a text in quotes or a whole number")
    # An unpacked archive may bring such a file along: it must not be what sends embeddings, or a key, to a server.
    if path == Path(FILE) and "://" in str(data.get("index", "")):
        raise InputError(f"{path}: index: a server is named in {_config_folder() / FILE} or by --index, not here")
    return {name: str(value) for name, value in data.items()}
