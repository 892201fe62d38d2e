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
    from trainer.evaluation.agree import ScoreAgreement
    from trainer.evaluation.judge import Evaluation

log = logging.getLogger(LOGGER)
_COLUMNS = ("vote", "P@1", "P@10", "mAP@10", "mAP", "R-prec.", "MAP@R", "sens.", "nDCG@10", "AUC")


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
    if "validation_map" in figures:
        precision = figures["validation_precision_at_10"]
        words.append(f"validation mAP {figures['validation_map']:.3f} P@10 {precision:.3f}")
    words.append(f"{figures['images_per_second']:.0f} images/s")
    if "seconds" in figures:
        left = (figures["epochs"] - figures["epoch"]) * figures["seconds"]
        words.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
    log.info("  ".join(words))


def print_left_out(left: LeftOut) -> None:
    if str(left):
        log.info(f"left out: {left}")


def print_evaluation(evaluation: Evaluation) -> None:
    """Both galleries' tables, baselines below the encoder, each figure with its interval; then each source's."""
    from cxrsearch.report.rows import write_table
    from trainer.evaluation.page import WORDS, columns, rows

    facts = evaluation.facts
    print(f"{evaluation.protocol}: {facts['queries']} images of {facts['patients']} patients, {facts['hardware']}")
    if evaluation.leakage:
        print(f"LEAKAGE: {evaluation.leakage}")
    names = columns(evaluation)
    present = [name for name in _COLUMNS if name in names.values()]
    for gallery in evaluation.retrievals:
        title, words = WORDS[gallery]
        shown = [
            {"": row["method"], **{name: row[name].written() for name in present if name in row}}
            for row in rows(evaluation, gallery)
        ]
        write_table(shown, ["", *present], f"{title}. {words}")
    for source, galleries in evaluation.by_source.items():
        gallery, methods = next(iter(galleries.items()))
        shown = [
            {"": method, **{words: figures[name].written() for name, words in names.items() if name in figures}}
            for method, figures in methods.items()
        ]
        write_table(shown, ["", *present], f"Queries from {source}. {WORDS[gallery][0]}")


def print_agreement(found: ScoreAgreement) -> None:
    """A row for the encoder and each baseline."""
    from cxrsearch.report.rows import write_table

    names = {
        "rank_correlation": "rank corr.",
        "side_correlation": "of the sides' difference",
        "absolute_difference": "abs. difference",
    }
    shown = [
        {"": method, **{words: figures[name].written() for name, words in names.items() if name in figures}}
        for method, figures in found.methods.items()
    ]
    facts = found.facts
    title = f"{', '.join(facts['fields'])}: {facts['images']} images of {facts['patients']} patients"
    for note in found.notes:
        print(note)
    write_table(shown, ["", *names.values()], title)
