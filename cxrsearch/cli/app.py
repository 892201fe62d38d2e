"""All commands in one typer app, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import Annotated

import typer

from cxrsearch import __version__
from cxrsearch.cli import (
    INTERRUPTED,
    audit,
    backup,
    cohort,
    copy,
    evaluate,
    forget,
    index,
    info,
    models,
    search,
    train,
    transfer,
)
from cxrsearch.clinical import clean
from cxrsearch.errors import CxrSearchError

app = typer.Typer(
    name="cxrsearch",
    help="Find the chest radiographs most like this one, and what happened to those patients.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cxrsearch {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("index")(index.index)
app.command("search")(search.search)
app.command("cohort")(cohort.cohort)
app.command("info")(info.info)
app.command("forget")(forget.forget)
app.command("copy")(copy.copy)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("models")(models.models)
app.command("audit")(audit.audit)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("transfer")(transfer.transfer)


def run(arguments: list[str]) -> int:
    """The exit code of the command line ``arguments``."""
    try:
        code = app(arguments, prog_name="cxrsearch", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except CxrSearchError as error:
        # Line by line: a message may hold names from files, and the caret's spaces have to stay.
        lines = [line[: len(line) - len(line.lstrip())] + clean(line) for line in str(error).split("\n")]
        print("cxrsearch: " + "\n".join(lines), file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("cxrsearch: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - else the interpreter's last flush fails aloud
        return 0
    except Exception as error:
        if callable(show := getattr(error, "show", None)):  # typer's own usage errors print themselves
            show()
            return int(getattr(error, "exit_code", 2))
        with tempfile.NamedTemporaryFile("w", prefix="cxrsearch-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        print(
            f"cxrsearch: unexpected failure, a bug of ours ({type(error).__name__}); the trace is in {log.name}",
            file=sys.stderr,
        )
        return 1
