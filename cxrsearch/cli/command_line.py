"""The command that made a page or a model, as that may say it: quoted, without paths, which often name patients."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer

# What somebody who repeats the command needs the name of; the folders above it are left out all the same.
_NAMED = ("index", "dataset", "config", "model")


def command_line(ctx: typer.Context, paths: bool = False) -> str:
    """What was given on the command line or by a setting; a path is only named by its metavar unless ``paths``."""
    words = ["cxrsearch", str(ctx.info_name)]
    for parameter in sorted(ctx.command.params, key=lambda one: one.param_type_name == "option"):  # arguments first
        name, source = str(parameter.name), ctx.get_parameter_source(str(parameter.name))
        given = ctx.params.get(name)
        if given is None or source is None or source.name == "DEFAULT":
            continue
        option = [max(parameter.opts, key=len)] if parameter.param_type_name == "option" else []
        if isinstance(given, bool):
            words += option if given else []
            continue
        for value in given if isinstance(given, list | tuple) else [given]:
            words += [*option, _shown(name, value, str(parameter.metavar).rstrip("."), paths)]
    return shlex.join(words)


def _shown(name: str, value: Any, metavar: str, paths: bool) -> str:
    text = str(value)
    if name in _NAMED:
        text = text.rsplit("@", 1)[-1] if "://" in text else text  # an address may hold a password
        return text if paths else Path(text).name or text
    return text if paths or not (isinstance(value, Path) or name == "images") else metavar
