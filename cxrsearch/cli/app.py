"""All commands in one typer app, and what becomes of their errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from cxrsearch import __version__, settings
from cxrsearch.cli import (
    audit,
    backup,
    calibrate,
    check,
    cohort,
    config,
    copy,
    doctor,
    duplicates,
    embed,
    evaluate,
    forget,
    index,
    info,
    init,
    locate,
    models,
    reembed,
    search,
    train,
    transfer,
)
from cxrsearch.cli.logging_options import Command, listen
from cxrsearch.errors import INTERRUPTED, CxrSearchError
from cxrsearch.text import clean

app = typer.Typer(
    name="cxrsearch",
    help="Find similar chest radiographs, and what happened to those patients.",
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


for _command in (
    init.init,
    index.index,
    embed.embed,
    search.search,
    cohort.cohort,
    info.info,
    calibrate.calibrate,
    duplicates.duplicates,
    forget.forget,
    locate.locate,
    copy.copy,
    reembed.reembed,
    backup.backup,
    backup.restore,
    check.check,
    audit.audit,
    train.train,
    evaluate.evaluate,
    transfer.transfer,
    doctor.doctor,
    config.config,
):
    app.command(_command.__name__, cls=Command)(_command)
app.add_typer(models.models, name="models")


def _settings(arguments: list[str]) -> dict[str, dict[str, str]]:
    """Options that the environment or a settings file set, by command."""
    if {"-h", "--help"} & set(arguments) or arguments[:1] == ["config"]:
        return {}
    try:
        options = {"index": "index", "model": "model", "fields": "shown"}
        given = {name: value for key, name in options.items() if (value := settings.given(key).value) is not None}
    except CxrSearchError:
        if arguments[:1] != ["doctor"]:  # which says it beside everything else
            raise
        return {}
    by_command = {str(command.name): given for command in app.registered_commands}
    # What evaluate's --model names is judged instead of being trained, and reembed's is the new one: never because of
    # a setting.
    return by_command | {"evaluate": {}, "reembed": {}}


def run(arguments: list[str]) -> int:
    """The exit code of the command line ``arguments``."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of latin-1 cannot show every character
        sys.stdout.reconfigure(errors="replace")
    try:
        listen()
        code = app(arguments, prog_name="cxrsearch", standalone_mode=False, default_map=_settings(arguments))
        sys.stdout.flush()  # a reader that is gone is met here, not by the interpreter's last flush
        return code if isinstance(code, int) else 0
    except CxrSearchError as error:
        # Line by line: a message may hold names from files, and the caret's spaces have to stay.
        lines = [line[: len(line) - len(line.lstrip())] + clean(line) for line in str(error).split("\n")]
        print("cxrsearch: " + "\n".join(lines), file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("cxrsearch: stopped", file=sys.stderr)
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader of our output (head, less) has had enough. Typer makes a SystemExit of it; nothing else raises one.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - else the interpreter's last flush fails aloud
        return 0
    except Exception as error:
        if callable(show := getattr(error, "show", None)):  # typer's own usage errors print themselves
            show()
            return int(getattr(error, "exit_code", 2))
        import tempfile  # here, as none of the two is needed to start
        import traceback

        with tempfile.NamedTemporaryFile("w", prefix="cxrsearch-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        print(
            f"cxrsearch: unexpected failure, a bug of ours ({type(error).__name__}); the trace is in {log.name}",
            file=sys.stderr,
        )
        return 1
