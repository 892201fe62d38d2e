"""cxrsearch models: the encoders that are installed, and encoders of others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxrsearch.cli.compare import compare
from cxrsearch.cli.logging_options import LOGGER, Command
from cxrsearch.cli.options import Output
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import Pooling
from cxrsearch.report.rows import Format

if TYPE_CHECKING:
    from cxrsearch.model_card import ModelCard

models = typer.Typer(
    help="List, show, import and compare encoders.",
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
models.command("compare", cls=Command)(compare)


@models.callback()
def _list_by_default(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        list_models(Format.TABLE)


@models.command("list", cls=Command)
def list_models(format: Output = Format.TABLE) -> None:
    """List the installed models, with their results on held-out patients.

    Example: cxrsearch models list
    """
    from cxrsearch.errors import ModelError
    from cxrsearch.model_card import DEFAULT_MODEL, installed_models, read_card
    from cxrsearch.report.rows import write

    rows: list[dict[str, Any]] = []
    for folder in installed_models():
        try:
            card = read_card(folder)
        except ModelError as error:  # the others are listed all the same
            logging.getLogger(LOGGER).warning(f"cxrsearch: {error}")
            continue
        own = card.described.get("figures", {}).get("unseen", {}).get("the encoder", {})
        rows.append(
            {
                "name": folder.name,
                "default": folder == DEFAULT_MODEL,
                "fingerprint": card.fingerprint[:12],
                "pixels": card.image_size,
                "dimensions": card.dimensions,
                "MB": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
                "AUC": own.get("auc", own.get("macro_auc", [None]))[0],
                "mAP": own.get("map", [None])[0],
                "MAP@R": own.get("map_at_r", [None])[0],
                "trained on": list(card.described.get("trained_on", [])),
                "folder": str(folder),
            }
        )
    write(rows, list(rows[0]), format)


@models.command("show", cls=Command)
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The name of a model, or its folder.")],
    format: Output = Format.TABLE,
) -> None:
    """Show what a model takes and gives, and what it was made of.

    Example: cxrsearch models show cxr-1
    """
    from cxrsearch.model_card import find_model, read_card
    from cxrsearch.report.rows import write

    folder = find_model(model)
    facts = {**_facts(read_card(folder)), "folder": str(folder)}
    write([{"what": name, "is": value} for name, value in facts.items()], ["what", "is"], format, whole=facts)


@models.command("import", cls=Command)
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="FILE.onnx, open_clip:NAME:TAG, hf-hub:ORG/NAME, local-dir:FOLDER, timm:NAME, hf:ORG/NAME,"
            " hf:FOLDER or xrv:NAME.",
        ),
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="The model's name, for --model NAME.")],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="FILE", help="A file of weights, or package:NAME, instead of the source's own."
        ),
    ] = None,
    size: Annotated[int | None, typer.Option("--size", metavar="PIXELS", help="The side of its pictures.")] = None,
    value_range: Annotated[
        str | None, typer.Option("--range", metavar="LOW,HIGH", help="What black and white are, such as 0,255.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", metavar="M[,M,M]", help="Subtracted from its pictures, by channel.")
    ] = None,
    deviation: Annotated[
        str | None, typer.Option("--deviation", metavar="D[,D,D]", help="What its pictures are divided by.")
    ] = None,
    resizing: Annotated[Resizing | None, typer.Option("--resizing", help="How an image becomes square.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="NAME", help="Of an ONNX file, what becomes the embedding.")
    ] = None,
    pooling: Annotated[Pooling | None, typer.Option("--pooling", help="Of an ONNX file, how it does.")] = None,
) -> None:
    """Make a model of somebody else's encoder. Nothing in its files is run but the encoder itself.

    Example: cxrsearch models import hf:microsoft/rad-dino --as rad-dino
    """
    from cxrsearch.model_card import read_card
    from cxrsearch.text import clean
    from trainer.importing.folder import import_model as make
    from trainer.importing.source import Choices

    low_high = _numbers(value_range, "--range")
    if low_high is not None and len(low_high) != 2:
        raise typer.BadParameter("give two numbers, such as 0,255", param_hint="--range")
    choices = Choices(
        size,
        None if low_high is None else (low_high[0], low_high[1]),
        _numbers(mean, "--mean"),
        _numbers(deviation, "--deviation"),
        resizing,
        output,
        pooling,
    )
    made = make(source, name, weights, choices)
    for what, value in _facts(read_card(made.folder)).items():
        print(f"{what}: {value}")
    if made.agreement is not None:
        print(f"agrees with the network: cosine {made.agreement:.6f}")
    if made.text_agreement is not None:
        print(f"its text encoder agrees with the network: cosine {made.text_agreement:.6f}")
    if made.without_text:
        print(f"its text encoder was left out: {clean(made.without_text)}")
    print(f"imported into {made.folder}; use it with --model {name}")


def _facts(card: ModelCard) -> dict[str, Any]:
    from cxrsearch.text import clean

    taken = card.input
    return {
        "name": card.name,
        "fingerprint": card.fingerprint[:12],
        "backbone": clean(str(card.described.get("backbone", ""))),
        "licence": clean(str(card.described.get("weights_licence") or "not known")),
        "input": f"{taken.channels} channels, {taken.size} x {taken.size} pixels, {taken.low:g} to {taken.high:g}",
        "mean": ", ".join(f"{number:g}" for number in taken.mean),
        "deviation": ", ".join(f"{number:g}" for number in taken.deviation),
        "resizing": str(taken.resizing),
        "dimensions": card.dimensions,
        "text": "no: --text needs a text encoder" if card.text is None else f"yes: {card.text.context} tokens",
        "explains": "yes" if card.has_places else "no: --explain and --region need places, which it does not give",
    }


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("give numbers, with commas between them", param_hint=option) from None
