"""cxrsearch models compare: two encoders on the same images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import AllowLeakage, ExternalRoot, Output
from cxrsearch.report.rows import Format

log = logging.getLogger(LOGGER)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A model: its name, or its folder.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="A training configuration: its held-out patients.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Use all labelled images, from none of which either model learnt.")
    ] = False,
    external: Annotated[
        str | None,
        typer.Option(
            "--external",
            metavar="MAPPING",
            help="In place of CONFIG: a dataset. A quarter of the patients are queries, the others the archive.",
        ),
    ] = None,
    root: ExternalRoot = None,
    allow_leakage: AllowLeakage = False,
    format: Output = Format.TABLE,
) -> None:
    """Compare two encoders on the same patients, beside baselines, by a paired bootstrap.

    Example: cxrsearch models compare cxr-1 rad-dino --external my-dataset.toml
    """
    from cxrsearch.cli.training_output import needs_train_extra, print_left_out
    from cxrsearch.errors import UsageError
    from cxrsearch.model_card import find_model
    from cxrsearch.report.progress import Progress
    from cxrsearch.report.rows import write

    if (config is None) == (external is None) or (root is not None and external is None):
        raise UsageError("give a CONFIG.toml, or --external MAPPING, which --root goes with")
    with needs_train_extra("models compare"):
        from trainer.config import Config
        from trainer.data.training_set import LEAKAGE, load
        from trainer.evaluation import compare as comparing
        from trainer.evaluation.evaluate import external_config

    folders = find_model(first), find_model(second)
    encoders = comparing.different(*folders)
    configuration = Config.load(config) if config is not None else external_config(str(external), root)
    with Progress("reading images") as progress:
        images, left = load(configuration, allow_leakage, progress.reach)
    print_left_out(left)
    with Progress("embedding") as progress:
        found = comparing.compare(
            configuration, images, folders, encoders, everything, external is not None, progress.reach
        )
    notes = [*(f"LEAKAGE: {LEAKAGE}" for _ in range(allow_leakage)), *found.notes]
    if format is Format.TABLE:
        facts = found.facts
        print(f"{found.protocol}: {facts['queries']} images of {facts['patients']} patients, {facts['hardware']}")
        print("\n".join([f"A: {found.names[0]}", f"B: {found.names[1]}", *notes]))
    elif format is not Format.JSON:
        for note in notes:
            log.warning(f"cxrsearch: {note}")
    cells = comparing.cells(found)
    rows = comparing.rows(found)
    whole = {"a": found.names[0], "b": found.names[1], "protocol": found.protocol, "notes": notes, **found.facts}
    shown = format is Format.TABLE
    columns = list((cells if shown else rows)[0])
    write(rows, columns, format, cells=cells, whole=whole | {"metrics": rows})
