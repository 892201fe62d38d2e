"""What train, evaluate and audit show: a line for each epoch on stderr, results on stdout."""

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


def print_epoch(figures: dict[str, float], name: str = "") -> None:
    """One epoch. The time left is that of this network's remaining epochs, at the last epoch's pace."""
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


def print_left_out(left: LeftOut) -> None:
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
