"""A progress bar with rate and time left on stderr; nothing where stderr is no terminal."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    def __init__(self, total: int) -> None:
        console, wanted = Console(stderr=True), logging.getLogger("cxrsearch").isEnabledFor(logging.INFO)
        columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
        self._bar = Bar(*columns, console=console, disable=not (console.is_terminal and wanted))
        self._task = self._bar.add_task("index", total=total, rate="")
        self._started, self._done = time.monotonic(), 0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        self._done += 1
        seconds = time.monotonic() - self._started
        self._bar.update(self._task, advance=1, rate=f"{self._done / seconds:.0f} images/s" if seconds > 0 else "")
