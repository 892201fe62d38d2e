"""An index and a question -> what was predicted how well: in folds, one site left out at a time, or from some images to
others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrsearch.clinical.expression import And, Or
from cxrsearch.clinical.where import parse
from cxrsearch.store.contract import VectorStore
from trainer.transfer import cases as casing
from trainer.transfer import transfer as transferring
from trainer.transfer.transfer import Transfer


@dataclass(frozen=True)
class Options:
    """inputs: facts to use, None for all that are allowed; trusted: facts to use even if they may contain the answer.

    leave_out: a field, one of whose values is left out at a time. fit_on, test_on: filters, both or neither, in place
    of folds. repeats: how often folds are drawn.
    """

    inputs: list[str] | None = None
    trusted: tuple[str, ...] = ()
    leave_out: str | None = None
    fit_on: str | None = None
    test_on: str | None = None
    repeats: int = 3
    seed: int = 0


def predict_outcome(store: VectorStore, target: str, where: str | None, options: Options) -> Transfer:
    """Predict the field ``target`` of the images that meet ``where``. Raises InputError, UsageError, WhereError."""
    fields = store.facts.all_fields
    expression = parse(where, fields, store) if where is not None else None
    given = {"--fit-on": options.fit_on, "--test-on": options.test_on}
    sides = [parse(text, fields, store, option) for option, text in given.items() if text is not None]
    if sides:
        expression = And((Or(tuple(sides)), *([expression] if expression is not None else [])))
    cases = casing.load(store, target, expression, options.inputs, options.trusted)
    if not sides:
        transferring.check_events(cases)
    cases = transferring.without_leaks(cases, options.trusted, options.seed)
    if options.leave_out is not None:
        return transferring.leaving_out(cases, options.leave_out, options.seed)
    if not sides:
        return transferring.in_folds(cases, options.repeats, options.seed)
    ids = [{point.id for point in store.scroll(side, fields=[])} for side in sides]
    learnt, judged = (np.array([id in known for id in cases.ids]) for known in ids)
    words = f"fitted on {options.fit_on}, judged on {options.test_on}"
    return transferring.from_one_to_another(cases, learnt & ~judged, judged, words, options.seed)
