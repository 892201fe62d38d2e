"""cxrsearch evaluate: the retrieval quality of an encoder, beside baselines."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import AllowLeakage, ExternalRoot


class By(StrEnum):
    PATIENT = "patient"
    IMAGE = "image"


def evaluate(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.toml]", help="A training configuration; see trainer/configs/.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL", help="Evaluate this model on its held-out images.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --model: use all labelled images, none of which it was trained on.")
    ] = False,
    external: Annotated[
        str | None,
        typer.Option(
            "--external",
            metavar="MAPPING",
            help="With --model, in place of CONFIG: a dataset that it was not trained on. A quarter of the patients are"
            " queries, the others the archive.",
        ),
    ] = None,
    root: ExternalRoot = None,
    agreement: Annotated[
        str | None,
        typer.Option(
            "--agreement",
            metavar="FIELDS",
            help="With --model: whether neighbours agree in these numbers, e.g. zone scores, right lung first.",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, max=50, help="Cross-validate with this many folds.")
    ] = None,
    by: Annotated[By, typer.Option("--by", help="Draw folds by patient, or by image at random.")] = By.PATIENT,
    leave_out: Annotated[
        str | None,
        typer.Option("--leave-out", metavar="FIELD", help="Leave out one at a time: source, site, dataset, ..."),
    ] = None,
    allow_leakage: AllowLeakage = False,
) -> None:
    """Measure the retrieval quality of an encoder on patients, sites or archives held out of training.

    Example: cxrsearch evaluate trainer/configs/darkcovidnet.toml --folds 5 --out runs/folds
    """
    from cxrsearch import files
    from cxrsearch.cli.command_line import command_line
    from cxrsearch.cli.training_output import (
        needs_train_extra,
        print_agreement,
        print_epoch,
        print_evaluation,
        print_left_out,
    )
    from cxrsearch.errors import UsageError
    from cxrsearch.model_card import find_model, read_card
    from cxrsearch.report.progress import Progress

    if sum(given is not None for given in (model, folds, leave_out)) != 1:
        raise UsageError("give one of --model DIR, --folds N, --leave-out FIELD")
    if (everything or external or agreement) and model is None:
        raise UsageError("--all, --external and --agreement go with --model")
    if (config is None) == (external is None):
        raise UsageError("give a CONFIG.toml, or --external MAPPING with --model DIR")
    with needs_train_extra("evaluate"):
        from trainer import run
        from trainer.config import Config
        from trainer.data.training_set import load
        from trainer.evaluation import agree
        from trainer.evaluation import evaluate as evaluating
        from trainer.evaluation import page as evaluation_page
        from trainer.evaluation.judge import as_json
        from trainer.learning.imported import new_network

    model = None if model is None else find_model(model)
    if config is not None:
        configuration = Config.load(config)
        if model is None:
            new_network(configuration)  # one that cannot be begun with is refused before images are read for it
    else:
        size = read_card(model).image_size  # type: ignore[arg-type]
        configuration = evaluating.external_config(str(external), root, size)
    with Progress("reading images") as progress:
        images, left = load(configuration, allow_leakage, progress.reach)
        print_left_out(left)
        if agreement is not None and model is not None:
            agreed = agree.agree(configuration, images, agreement.split(","), model, allow_leakage)
            out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(agree.as_json(agreed), indent=2, ensure_ascii=False)
            files.write(out / "agreement.json", text + "\n")
            print_agreement(agreed)
            return
        evaluation = evaluating.run(
            configuration,
            images,
            out,
            model=model,
            everything=everything,
            external=external is not None,
            folds=folds,
            by=by.value,
            leave_out=leave_out,
            allow_leakage=allow_leakage,
            log=lambda name, line: print_epoch(line, name),
        )
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(evaluation), indent=2, ensure_ascii=False)
    files.write(out / "evaluation.json", text + "\n")
    map_of = run.map_of(configuration, images, *evaluation.map_of)
    evaluation_page.write(out / "evaluation.html", evaluation, images, map_of, command_line(ctx), configuration.seed)
    print_evaluation(evaluation)
    print(f"page: {out / 'evaluation.html'}")
