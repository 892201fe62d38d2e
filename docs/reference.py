"""Writes docs/reference/commands.md from the help of the commands: ``make docs``.

A test fails when the page is out of date.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cxrsearch.cli.app import app

PAGE = Path(__file__).parent / "reference" / "commands.md"
HEAD = """\
# Commands

Written by `make docs` from the commands themselves: what `cxrsearch COMMAND --help` prints. `--where` is described in
[where.md](where.md). `cxrsearch --install-completion` teaches your shell commands, fields and values.

Exit codes: 0 done; 1 a bug of ours; 2 wrong usage; 3 done, with files rejected or a risk found; 4 something given
cannot be used; 5 no index, a damaged one or no answer; 6 an index of another model; 130 stopped by Ctrl-C.
"""


def page() -> str:
    names = [str(command.name) for command in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        names += [f"{group.name} {command.name}" for command in group.typer_instance.registered_commands]
    return HEAD + "".join(f"\n## {name}\n\n```text\n{_help(name)}\n```\n" for name in names)


def _help(name: str) -> str:
    code = f"import sys; from cxrsearch.cli.app import run; sys.exit(run([*{name.split()!r}, '--help']))"
    environment = {"COLUMNS": "100", "PATH": "/usr/bin", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.rstrip()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
