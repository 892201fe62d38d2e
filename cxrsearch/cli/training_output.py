"""What train, evaluate and audit show: progress on stderr, results on stdout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.errors import UsageError

if TYPE_CHECKING:
    from trainer.data.training_set import LeftOut
    from trainer.evaluation.evaluate import Evaluation

log = logging.getLogger(LOGGER)
_COLUMNS = ("vote", "P@1", "P@10", "mAP@10", "R-prec.", "MAP@R", "sens.", "AUC")


@contextmanager
def needs_train_extra(command: str, extra: str = "train") -> Iterator[None]:
    """Turns a package that is not installed into the sentence that says how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{command} needs the {extra} extra ({error.name} is missing): pip install 'cxrsearch[{extra}]'"
        ) from None


class TrainingProgress:
    """Progress on stderr: images read (on a terminal), then a line of figures for every epoch."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or not log.isEnabledFor(logging.INFO),
        )
        self._read = self._bar.add_task("reading images", total=None)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def reading(self, done: int, total: int) -> None:
        self._bar.update(self._read, completed=done, total=total)
        if done == total:
            self._bar.stop()

    def line(self, figures: dict[str, float], name: str = "") -> None:
        """One epoch. The time left is that of this network's remaining epochs, at the last epoch's pace."""
        self._bar.stop()
        words = [name] if name else []
        if "self_supervised_epoch" in figures:
            words.append(f"without labels, epoch {figures['self_supervised_epoch']:3.0f}")
        else:
            words.append(f"epoch {figures['epoch']:3.0f}/{figures['epochs']:.0f}")
        words += [f"loss {figures['loss']:.3f}", f"spread {figures['spread']:.3f}"]
        if "validation_map_at_r" in figures:
            words.append(
                f"validation MAP@R {figures['validation_map_at_r']:.3f} P@1 {figures['validation_precision_at_1']:.3f}"
            )
        words.append(f"{figures['images_per_second']:.0f} images/s")
        if "seconds" in figures:
            left = (figures["epochs"] - figures["epoch"]) * figures["seconds"]
            words.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
        log.info("  ".join(words))

    @staticmethod
    def left_out(left: LeftOut) -> None:
        if str(left):
            log.info(f"left out: {left}")


def print_evaluation(evaluation: Evaluation) -> None:
    """Both galleries' tables, baselines below the encoder, each figure with its interval."""
    from cxrsearch.report.rows import write_table
    from trainer.evaluation.page import WORDS, rows

    facts = evaluation.facts
    print(f"{evaluation.protocol}: {facts['queries']} images of {facts['patients']} patients, {facts['hardware']}")
    if evaluation.leakage:
        print(f"LEAKAGE: {evaluation.leakage}")
    for gallery in evaluation.retrievals:
        title, words = WORDS[gallery]
        shown = [
            {"": row["method"], **{name: row[name].written() for name in _COLUMNS if name in row}}
            for row in rows(evaluation, gallery)
        ]
        write_table(shown, ["", *_COLUMNS], f"{title}. {words}")
