"""cxrsearch evaluate: the retrieval quality of an encoder, beside baselines."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import AllowLeakage, Configuration


class By(StrEnum):
    PATIENT = "patient"
    IMAGE = "image"


def evaluate(
    ctx: typer.Context,
    config: Configuration,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Evaluate this model on its held-out images.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --model: use all labelled images, none of which it was trained on.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, max=50, help="Cross-validate with this many folds.")
    ] = None,
    by: Annotated[By, typer.Option("--by", help="Draw folds by patient, or by image at random.")] = By.PATIENT,
    leave_out: Annotated[
        str | None,
        typer.Option("--leave-out", metavar="FIELD", help="Leave out one site at a time: site, dataset, ..."),
    ] = None,
    allow_leakage: AllowLeakage = False,
) -> None:
    """Measure the retrieval quality of an encoder on patients or sites held out of training.

    Example: cxrsearch evaluate trainer/configs/darkcovidnet.toml --folds 5 --out runs/folds
    """
    from cxrsearch import files
    from cxrsearch.cli.command_line import command_line
    from cxrsearch.cli.training_output import needs_train_extra, print_epoch, print_evaluation, print_left_out
    from cxrsearch.errors import UsageError
    from cxrsearch.report.progress import Progress

    if sum(given is not None for given in (model, folds, leave_out)) != 1:
        raise UsageError("give one of --model DIR, --folds N, --leave-out FIELD")
    if everything and model is None:
        raise UsageError("--all goes with --model")
    with needs_train_extra("evaluate"):
        from trainer import run
        from trainer.config import Config
        from trainer.data import splits
        from trainer.data.training_set import load
        from trainer.evaluation import evaluate as evaluating
        from trainer.evaluation import page as evaluation_page

    configuration = Config.load(config)
    with Progress("reading images") as progress:
        images, left = load(configuration, allow_leakage, progress.reach)
        print_left_out(left)
        log = lambda name, line: print_epoch(line, name)  # noqa: E731
        if model is not None:
            evaluation = evaluating.of_model(configuration, images, model, everything)
        elif folds is not None:
            protocol = f"{folds} folds, drawn by {by}"
            parts = splits.folds(images, folds, by.value, configuration.seed)
            evaluation = evaluating.in_folds(configuration, images, protocol, parts, out, by is By.IMAGE, log)
        else:
            parts = splits.sites(images, str(leave_out))
            evaluation = evaluating.in_folds(
                configuration, images, f"one {leave_out} left out at a time", parts, out, False, log
            )
    if allow_leakage:
        evaluation = evaluating.stamped(evaluation, run.LEAKAGE)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(evaluating.as_json(evaluation), indent=2, ensure_ascii=False)
    files.write(out / "evaluation.json", text + "\n")
    map_of = run.map_of(configuration, images, *evaluation.map_of)
    evaluation_page.write(out / "evaluation.html", evaluation, images, map_of, command_line(ctx), configuration.seed)
    print_evaluation(evaluation)
    print(f"page: {out / 'evaluation.html'}")
