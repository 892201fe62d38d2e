"""cxrsearch doctor: check the installation."""

from __future__ import annotations

from typing import Annotated

import typer

from cxrsearch.cli.options import Model, Output
from cxrsearch.report.rows import Format, write


def doctor(
    index: Annotated[
        str | None, typer.Option("--index", metavar="PATH", help="Also check this index, with one query.")
    ] = None,
    model: Model = None,
    format: Output = Format.TABLE,
) -> int:
    """Check the installation and say what to fix. Exit code 4 when a check fails.

    Example: cxrsearch doctor --index chest
    """
    from cxrsearch import doctor as checkup

    found = checkup.run(model, index)
    rows = [{"": check.state, "what": check.what, "found": check.found, "to do": check.to_do} for check in found]
    write(rows, ["", "what", "found", "to do"], format)
    return 4 if any(check.state is checkup.State.FAILS for check in found) else 0
