"""A progress bar with rate and time left on stderr; nothing where stderr is no terminal, or with -q."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Of ``total`` images, as far as that is known. ``what`` is done with them: "indexing"."""

    def __init__(self, what: str, total: int | None = None) -> None:
        console, wanted = Console(stderr=True), logging.getLogger("cxrsearch").isEnabledFor(logging.INFO)
        texts = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
        columns = texts[0], BarColumn(), MofNCompleteColumn(), texts[1], TimeRemainingColumn()
        self._bar = Bar(*columns, console=console, disable=not (console.is_terminal and wanted))
        self._task = self._bar.add_task(what, total=total, rate="")
        self._started, self._done = time.monotonic(), 0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One more is done."""
        self.reach(self._done + 1)

    def reach(self, done: int, total: int | None = None) -> None:
        """So many are done, of ``total``; the bar stops when all are, and what is printed then stands below it."""
        self._done, seconds = done, time.monotonic() - self._started
        rate = f"{done / seconds:.0f} images/s" if seconds > 0 else ""
        self._bar.update(self._task, completed=done, total=total, rate=rate)
        if done == total:
            self._bar.stop()
