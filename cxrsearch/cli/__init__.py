"""The command ``cxrsearch``. This module imports nothing heavy: ``--help`` is answered at once."""

from __future__ import annotations

import os
import sys

from cxrsearch.errors import INTERRUPTED


def main() -> None:
    """Run the command line; every outcome becomes an exit code (see errors.py) and no traceback."""
    completing = "_CXRSEARCH_COMPLETE" in os.environ  # a shell asks what may come next
    try:
        if not completing and sys.argv[1:] in ([], ["--help"], ["-h"]):
            # The front page is kept as text (a test compares it with what typer would print): building it
            # takes four times as long as starting Python.
            with open(os.path.join(os.path.dirname(__file__), "help.txt"), encoding="utf-8") as page:
                sys.stdout.write(page.read())
            sys.stdout.flush()
            return
        from cxrsearch.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while still importing
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of the front page has had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - else the interpreter's last flush fails aloud
        code = 0
    sys.exit(code)
