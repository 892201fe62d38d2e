"""cxrsearch reembed: an index by another model."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import OnDevice
from cxrsearch.device import Device


def reembed(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="The index: a folder or a URL.")],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The new model: its name (see cxrsearch models) or folder.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="INDEX2", help="The new index: a folder or a URL.")],
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out images that have neither original nor thumbnail here.")
    ] = False,
    device: OnDevice = Device.CPU,
) -> int:
    """Make an index of the same images by another model. Ids and facts stay; a killed run is gone on with.

    Example: cxrsearch reembed chest --model rad-dino --to chest-2
    """
    from cxrsearch.model_card import find_model
    from indexer.reembed import reembed as make

    made = make(source, to, find_model(model), skip_missing, device)
    before = f", {made.kept} of them by an earlier run" if made.kept else ""
    print(f"embedded {made.images} images into {to}{before}")
    log = logging.getLogger(LOGGER)
    if made.thumbnails:
        log.warning(
            f"cxrsearch: {made.thumbnails} images were embedded from their thumbnails, as their originals are not here"
            " or have changed: they show less"
        )
    if made.left_out:
        log.warning(f"cxrsearch: {made.left_out} images have no picture here and were left out")
    log.info(f"votes of {to} are not calibrated yet: cxrsearch calibrate --index {to}")
    return 3 if made.left_out else 0
