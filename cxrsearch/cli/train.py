"""cxrsearch train: learn an encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="A training configuration; see trainer/configs/.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder to write: metrics.jsonl and model/.")],
) -> None:
    """Learn an encoder from labelled datasets and export it as a model folder.

    Example: cxrsearch train trainer/configs/first.toml --out runs/first
    """
    from cxrsearch.errors import UsageError

    try:
        from trainer import fit
    except ModuleNotFoundError as error:
        raise UsageError(
            f"train needs the train extra ({error.name} is missing): pip install 'cxrsearch[train]'"
        ) from None

    def log(line: dict[str, float]) -> None:
        print(
            f"epoch {line['epoch']:3.0f}  loss {line['loss']:.3f}  spread {line['spread']:.3f}"
            f"  validation MAP@R {line['validation_map_at_r']:.3f}  P@1 {line['validation_precision_at_1']:.3f}"
            f"  {line['images_per_second']:.0f} images/s",
            file=sys.stderr,
        )

    result = fit.run(config, out, log)
    print(f"epoch {result.epoch} chosen; on {result.test.queries} images of patients held out of everything:")
    for name, figures in (("embedding", result.test), ("32 x 32 thumbnails", result.floor)):
        print(
            f"  {name:<18}  P@1 {figures.precision_at_1:.3f}  MAP@R {figures.map_at_r:.3f}"
            f"  vote accuracy {figures.vote_accuracy:.3f}"
        )
    print(f"model: {out / 'model'}")
