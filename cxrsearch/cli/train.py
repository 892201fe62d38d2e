"""cxrsearch train: train an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import AllowLeakage, Configuration


def train(
    ctx: typer.Context,
    config: Configuration,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder for the results and the model.")],
    allow_leakage: AllowLeakage = False,
) -> None:
    """Train an encoder on labelled datasets. Run it again to continue a stopped run.

    Example: cxrsearch train trainer/configs/cxr-1.toml --out runs/cxr-1
    """
    from cxrsearch.cli.command_line import command_line
    from cxrsearch.cli.training_output import needs_train_extra, print_epoch, print_evaluation, print_left_out
    from cxrsearch.report.progress import Progress

    with needs_train_extra("train"):
        from trainer import run

    with Progress("reading images") as progress:
        done = run.train(config, out, allow_leakage, print_epoch, progress.reach, command_line(ctx))
    print_left_out(done.left_out)
    if done.evaluation is not None:
        print_evaluation(done.evaluation)
    print(f"epoch {done.fit.epoch} was kept; model: {out / 'model'}")
