"""cxrsearch transfer: predict an outcome without training an encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import Index, Output, Where
from cxrsearch.report.rows import Format


def transfer(
    ctx: typer.Context,
    index: Index,
    target: Annotated[
        str, typer.Option("--target", metavar="FIELD", help="What to predict: a boolean, a keyword or a number.")
    ],
    where: Where = None,
    inputs: Annotated[
        str | None,
        typer.Option("--with", metavar="FIELD,...", help="Clinical facts to use. Default: all that are allowed."),
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option("--trust", metavar="FIELD,...", help="Use these facts even if they may contain the answer."),
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option("--leave-out", metavar="FIELD", help="Leave out one site at a time: site, dataset, ..."),
    ] = None,
    fit_on: Annotated[
        str | None,
        typer.Option("--fit-on", metavar="EXPR", help="Train on the images that meet this filter; needs --test-on."),
    ] = None,
    test_on: Annotated[
        str | None, typer.Option("--test-on", metavar="EXPR", help="Test on the images that meet this filter.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=100, help="How often the five folds are drawn.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of folds and bootstrap.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="Write an HTML page with ROC and calibration curves."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE.json", help="Save the model on embeddings, for search --predict."),
    ] = None,
    format: Output = Format.TABLE,
) -> None:
    """Predict an outcome from clinical facts, embeddings, or both, without training an encoder.

    Example: cxrsearch transfer --index chest --target outcome --leave-out site --out outcome.html
    """
    from cxrsearch.cli.command_line import command_line
    from cxrsearch.cli.training_output import needs_train_extra
    from cxrsearch.errors import UsageError
    from cxrsearch.report import page
    from cxrsearch.report.rows import write
    from cxrsearch.store import open_store
    from cxrsearch.store.images import StoredImages

    if (fit_on is None) != (test_on is None):
        raise UsageError("--fit-on and --test-on go together")
    if fit_on is not None and leave_out is not None:
        raise UsageError("give --leave-out, or --fit-on and --test-on")
    page.check_name(out, "--out")
    with needs_train_extra("transfer", "analysis"):
        from trainer.transfer import report as transfer_report
        from trainer.transfer.protocols import Options, predict_outcome

    options = Options(_names(inputs), tuple(_names(trust) or ()), leave_out, fit_on, test_on, repeats, seed)
    with open_store(index) as store:
        facts, images = store.facts, StoredImages(store)
        found = predict_outcome(store, target, where, options)
    command = command_line(ctx)
    if out is not None:
        transfer_report.write(out, found, images, command, seed)
    if save is not None:
        transfer_report.save(save, found, facts, command, seed)
    whole, rows = transfer_report.as_json(found), transfer_report.rows(found)
    columns = ["model", *next(iter(found.figures.values()))]
    if format is Format.TABLE:
        _describe(whole)
    cells = [{k: v if k == "model" else v.written() for k, v in row.items()} for row in rows]
    flat = [{k: getattr(v, "value", v) for k, v in row.items()} for row in rows]
    write(flat, columns, format, cells=cells, whole=whole)
    if format is Format.TABLE:
        for path, what in ((out, "page"), (save, "model")):
            if path is not None:
                print(f"{what}: {path}")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _describe(whole: dict[str, object]) -> None:
    from cxrsearch.report.rows import text_of

    print(f"{text_of(whole['target'])}: {whole['images']} images of {whole['patients']} patients; {whole['protocol']}")
    classes = whole.get("classes")
    if isinstance(classes, dict):
        total = sum(number["images"] for number in classes.values())
        print(
            "; ".join(
                f"{text_of(name)}: {n['images']} images of {n['patients']} patients ({n['images'] / total:.1%})"
                for name, n in classes.items()
            )
        )
    inputs, refused = whole["inputs"], whole["refused"]
    print(f"clinical facts: {text_of(inputs) or 'none'}")
    if isinstance(refused, dict):
        for name, why in refused.items():
            logging.getLogger(LOGGER).info(f"  not used: {name}: {why}")
