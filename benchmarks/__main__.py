"""Run every benchmark and write docs/reference/benchmarks.md."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    cold_search,
    engine,
    faithfulness,
    indexing_rate,
    learning_speed,
    near_duplicates,
    negation,
    ray_rate,
)

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks.md"
HEAD = """\
# Benchmarks

Written by `make bench` on {day}: {cores} cores, {machine}, Python {python}. These machines are shared and
noisy: compare figures within this page, not with another day's. Ratios are taken within one run.

"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # The key of these throw-away indexes is theirs.
        os.environ["CXRSEARCH_KEY_FILE"] = str(place / "key")
        sections = [
            part.measure(place / part.__name__)
            for part in (
                cold_search,
                indexing_rate,
                ray_rate,
                learning_speed,
                faithfulness,
                near_duplicates,
                negation,
                engine,
            )
        ]
    head = HEAD.format(
        day=datetime.date.today(), cores=os.cpu_count(), machine=platform.machine(), python=platform.python_version()
    )
    PAGE.write_text(head + "\n".join(sections), "utf-8")
    sys.stdout.write(head + "\n".join(sections))


main()
