"""cxrsearch check: whether the files of an index are what was written."""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="The index: a folder or a URL.")],
) -> None:
    """Read every byte of an index and say which files are damaged.

    Example: cxrsearch check chest
    """
    from cxrsearch.errors import IndexUnavailable
    from cxrsearch.store import problems
    from cxrsearch.text import clean

    found = 0
    for problem in problems(index):
        print(clean(problem))
        found += 1
    if found:
        what = f"{index}: {found} file{'s' if found > 1 else ''} damaged or missing."
        raise IndexUnavailable(f"{what} Restore the index from a backup (cxrsearch restore) or index again.")
    print("every file of which there is a checksum is what was written")
