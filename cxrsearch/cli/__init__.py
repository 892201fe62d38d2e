"""The command ``cxrsearch``."""

from __future__ import annotations

import sys

from cxrsearch.errors import INTERRUPTED


def main() -> None:
    """Run the command line; every outcome becomes an exit code (see errors.py) and no traceback."""
    try:
        from cxrsearch.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while still importing
        code = INTERRUPTED
    sys.exit(code)
