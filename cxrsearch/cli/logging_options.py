"""What is printed on stderr beside the results. ``-q``: errors only; ``-v``: what is done, and when.

Every module tells through the logger ``cxrsearch``: info for progress and notes, warning for what a reader of the
results has to know, debug for whoever wonders.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cxrsearch.text import clean

LOGGER = "cxrsearch"
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print what is done, and when.")]


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


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with ``-q`` and ``-v`` among its options."""

    @functools.wraps(command)
    def run(*args: Any, quiet: bool, verbose: bool, **options: Any) -> Any:
        listen(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        return command(*args, **options)

    more = {"quiet": Quiet, "verbose": Verbose}
    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in more.items()
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()} | more
    return run
