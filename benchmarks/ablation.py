"""What each part of the method is worth: one change at a time, three seeds.

``make ablation`` writes docs/reference/ablation.md.

On darkcovidnet without the first of its five patient-grouped folds: what is chosen by this table is never chosen on
that fold's images. Each seed draws another fifth of the remaining patients to judge on, the same for every variant.
Small pictures and few epochs: differences between rows count, not their height.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrsearch.errors import InputError
from trainer.config import Config
from trainer.data import splits
from trainer.data.images import Images
from trainer.data.training_set import load
from trainer.learning.embed import embed
from trainer.learning.fit import fit
from trainer.metrics.retrieval import retrieve

DONE = Path(__file__).parent.parent / "runs" / "ablation.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "ablation.md"
CONFIG = Path(__file__).parent.parent / "trainer" / "configs" / "darkcovidnet.toml"
SEEDS = (0, 1, 2)
EPOCHS, PIXELS, JUDGED = 16, 96, 0.2
SELF_SUPERVISED = {"self_supervised_epochs": 5}
# Name of a row -> what it changes of the network and of the learning.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention, miner, multi-similarity, softmax beside": ({}, {}),
    "no attention: all places alike": ({"attention": False}, {}),
    "no miner: all pairs": ({}, {"miner": False}),
    "triplet loss, semi-hard": ({}, {"objective": "triplet"}),
    "cross-entropy features": ({}, {"objective": "cross-entropy"}),
    "warm-up: softmax before, then gone": ({}, {"warm_up": "before"}),
    "warm-up: none": ({}, {"warm_up": "none"}),
    "warm-up: without labels, then none": ({}, {"warm_up": "none", **SELF_SUPERVISED}),
    "without labels first, softmax beside": ({}, SELF_SUPERVISED),
    "64 pixels": ({"image_size": 64}, {}),
    "128 pixels": ({"image_size": 128}, {}),
}
METRICS = {"vote_accuracy": "vote", "precision_at_1": "P@1", "map_at_r": "MAP@R"}


def main() -> None:
    """Rows that runs/ablation.jsonl has already are kept: delete it to measure anew."""
    DONE.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in DONE.read_text("utf-8").splitlines()] if DONE.exists() else []
    rows = {row["variant"]: row for row in known}
    sets: dict[int, Images] = {}
    for name, (network, learning) in VARIANTS.items():
        if name in rows:
            continue
        config = _changed(network, learning)
        size = config.network.image_size
        if size not in sets:
            images, _ = load(config)
            _, first = next(splits.folds(images, 5, "patient", config.seed))
            sets[size] = images.part(splits.learnt_from(images, first))
        found = [_figures(config.model_copy(update={"seed": seed}), sets[size]) for seed in SEEDS]
        stood = [row for row in found if row is not None]
        cells = [f"{np.mean(column):.3f} ± {np.std(column, ddof=1):.3f}" for column in zip(*stood, strict=True)]
        rows[name] = {"variant": name, "collapsed": len(SEEDS) - len(stood), "cells": cells if len(stood) > 1 else []}
        with DONE.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(rows[name], ensure_ascii=False) + "\n")
        print(name, *rows[name]["cells"], sep="  ", file=sys.stderr, flush=True)
    PAGE.write_text(_page([rows[name] for name in VARIANTS]), "utf-8")


def _changed(network: dict[str, Any], learning: dict[str, Any]) -> Config:
    config = Config.load(CONFIG)
    return config.model_copy(
        update={
            "network": config.network.model_copy(update={"image_size": PIXELS, **network}),
            "learning": config.learning.model_copy(update={"epochs": EPOCHS, "self_supervised_epochs": 0, **learning}),
        }
    )


def _figures(config: Config, images: Images) -> list[float] | None:
    """Every figure of one run, None when its embedding collapsed."""
    labelled = images.labelled
    judged = splits.held_out(images, JUDGED, config.seed)
    seen = splits.learnt_from(images, judged)
    learnt, asked = images.part(seen & labelled), images.part(judged & labelled)
    try:
        network = fit(config, learnt, None, images.part(seen)).network
    except InputError as error:
        print(f"  seed {config.seed}: {error}", file=sys.stderr)
        return None
    vectors, archive = embed(network, asked.pixels), embed(network, learnt.pixels)
    row = []
    for gallery in ((archive, learnt.labels, learnt.owners), None):
        means = retrieve(vectors, asked.labels, asked.owners, asked.classes, gallery).means()
        row += [means[name] for name in METRICS]
    return row


def _page(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| | {' | '.join(f'{g} {m}' for g in ('archive', 'unseen') for m in METRICS.values())} |",
        "|---|" + "---|" * (2 * len(METRICS)),
    ]
    for row in rows:
        collapsed = f" (collapsed in {row['collapsed']} of {len(SEEDS)} seeds)" if row["collapsed"] else ""
        lines.append(f"| {row['variant']}{collapsed} | {' | '.join(row['cells'] or ['-'] * 2 * len(METRICS))} |")
    table = "\n".join(lines)
    seeds = ", ".join(map(str, SEEDS))
    return f"""\
# Ablation

Written by `make ablation` on {datetime.date.today()}: {torch.get_num_threads()} CPU cores, seeds {seeds}.
`trainer/configs/darkcovidnet.toml` with {EPOCHS} epochs, {PIXELS} x {PIXELS} pixels and no learning without labels,
where no row says otherwise. Mean and standard deviation over seeds, each of which also draws another fifth of the
patients to judge on (the network's own variation and the draw's are not told apart). The first of the five
patient-grouped folds of the published figures is in none of it.

An earlier run of this table chose that learning without labels comes first; the test images of the second to fifth
published folds are among what that was chosen on. Nothing else was chosen by it: most rows differ by less than their
seeds do.

{table}
"""


if __name__ == "__main__":
    main()
