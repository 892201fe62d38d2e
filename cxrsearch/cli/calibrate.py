"""cxrsearch calibrate: learn how votes on an index become probabilities."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import Index, Model, Output
from cxrsearch.report.rows import Format


def calibrate(
    index: Index,
    model: Model = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random split of patients.")] = 0,
    format: Output = Format.TABLE,
) -> None:
    """Learn how votes on this index become probabilities. Run it before search --vote.

    Example: cxrsearch calibrate --index chest
    """
    from dataclasses import replace

    from cxrsearch.model_card import find_model, read_card
    from cxrsearch.report import votes
    from cxrsearch.report.rows import write
    from cxrsearch.store import open_store
    from cxrsearch.voting import fit as calibrating

    log = logging.getLogger(LOGGER)
    card = read_card(find_model(model))
    with open_store(index) as store:
        store.facts.check_model(card.name, card.fingerprint, card.dimensions)
        store.check_writable()  # what is learned is kept in the index: said before a minute of work, not after
        trained_on = [str(name) for name in card.described.get("trained_on", [])]
        found = calibrating.calibrate(store, trained_on, seed, lambda name: log.info(f"asking about {name}"))
    with open_store(index, write=True) as store:  # only now: others may search while it asks
        store.declare(replace(store.facts, calibration=found.as_json()))
    rows = votes.calibration_rows(found)
    if format is Format.TABLE:
        for line in votes.calibration_words(found):
            print(line)
    cells = [votes.written(row) for row in rows]
    write(rows, votes.CALIBRATION_COLUMNS, format, cells=cells, whole=found.as_json())
