"""What is printed on stderr beside the results. ``-q``: errors only; ``-v``: what is done, and when.

Every module tells through the logger ``cxrsearch``: info for progress and notes, warning for what a reader of the
results has to know, debug for whoever wonders.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cxrsearch.text import clean

LOGGER = "cxrsearch"


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # Names from files may be in a message; what indents it stays.
        text = record.getMessage()
        shown = text[: len(text) - len(text.lstrip(" "))] + clean(text)
        return f"{record.relativeCreated / 1000:7.2f} s  {shown}" if record.levelno == logging.DEBUG else shown


def listen(level: int = logging.INFO) -> None:
    """From now on tell what is of this level or above, on the stderr there is now."""
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


def _verbosity(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print what is done, and when.")] = False,
) -> None:
    listen(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)


class Command(TyperCommand):
    """A command with ``-q`` and ``-v`` behind its own options."""

    def __init__(self, *args: Any, params: list[Any], **options: Any) -> None:
        super().__init__(*args, params=[*params, *_VERBOSITY], **options)

    def invoke(self, ctx: Any) -> Any:
        _verbosity(**{str(option.name): ctx.params.pop(str(option.name)) for option in _VERBOSITY})
        return super().invoke(ctx)


_application = typer.Typer(add_completion=False)
_application.command()(_verbosity)
_VERBOSITY = typer.main.get_command(_application).params
