"""A training run and its folder.

RUN/config.json      the configuration as run, and what else it is a run of
RUN/metrics.jsonl    a line of figures an epoch
RUN/checkpoint.pt    while it runs: what a killed run goes on from
RUN/curves.png       loss, spread, validation
RUN/embedding.png    a map of held-out images, by label and by site
RUN/model/           the model folder: card, encoder.onnx, weights
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch import __version__, files
from cxrsearch.errors import InputError
from cxrsearch.model_card import read_card
from cxrsearch.statistics import Figure
from trainer import plots
from trainer.config import Config, imported_folder, learnt_datasets
from trainer.data import splits
from trainer.data.claim import claim
from trainer.data.images import Images
from trainer.data.squares import as_learnt
from trainer.data.training_set import LEAKAGE, LeftOut, load
from trainer.evaluation.evaluate import HELD_OUT
from trainer.evaluation.judge import GALLERIES, Evaluation, Judging, judge
from trainer.learning.compose import compose
from trainer.learning.embed import embed, network_embedder
from trainer.learning.export import export
from trainer.learning.fit import Fit, Line, fit
from trainer.learning.imported import ImportedNetwork, new_network
from trainer.learning.pretrained import licence
from trainer.learning.step import processes

# Figures of an evaluation that go on the card; the evaluation's own JSON has all.
ON_CARD = (
    "precision_at_1",
    "precision_at_5",
    "precision_at_10",
    "r_precision",
    "map_at_r",
    "vote_accuracy",
    "macro_sensitivity",
    "macro_auc",
    "auc",
    "map",
    "ndcg_at_10",
)


@dataclass(frozen=True)
class Run:
    """fit: what was learnt; evaluation: on held-out patients, None where the configuration holds none out."""

    fit: Fit
    evaluation: Evaluation | None
    left_out: LeftOut


def train(
    path: Path,
    folder: Path,
    allow_leakage: bool = False,
    log: Callable[[Line], None] = lambda line: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
    command: str = "cxrsearch train",
) -> Run:
    """Train as the configuration at ``path`` says, going on from RUN's checkpoint where there is one.

    log: told the figures of every epoch. advance: told how many of how many images are read. command: how
    the run was started, for the model's card. Raises InputError.
    """
    config = Config.load(path)
    new_network(config)  # one that cannot be begun with is refused before images are read for it
    images, left_out = load(config, allow_leakage, advance)
    images = as_learnt(config, images)
    writing = processes().is_main_process  # of several, one writes
    if writing:
        claim(folder, config, images, "a training run", allow_leakage)
    labelled = images.labelled
    parts = splits.run_parts(images, config.held_out, config.seed)
    usable, choosing, test = parts.learnt, parts.validation, parts.test
    metrics = folder / "metrics.jsonl"
    if writing:
        files.write(metrics, "")  # fit tells the epochs of a stopped run again

    def both(line: Line) -> None:
        if writing:
            try:
                files.append(metrics, json.dumps(line) + "\n")
            except OSError as error:
                raise InputError(f"{metrics}: cannot be written ({error.strerror})") from None
        log(line)

    validation = images.part(choosing & images.judgeable) if choosing.any() else None
    result = fit(
        config, images.part(usable & labelled), validation, images.part(usable), folder / "checkpoint.pt", both
    )
    evaluation, leakage = None, _leakage(config, allow_leakage)
    if not writing:
        return Run(result, evaluation, left_out)
    if test.any():
        judging = Judging(
            network_embedder(result.network), np.flatnonzero(usable & labelled), np.flatnonzero(test & images.judgeable)
        )
        evaluation = judge(config.name, HELD_OUT, images, [judging], leakage)
    files.write(folder / "curves.png", plots.curves(result.history))
    shown = np.flatnonzero((test if test.any() else usable | choosing) & labelled)
    files.write(folder / "embedding.png", map_of(config, images, shown, embed(result.network, images.pixels[shown])))
    sizes = {
        "train": int((usable & labelled).sum()),
        "validation": int((choosing & labelled).sum()),
        "test": int((test & labelled).sum()),
        "without labels": int(usable.sum()) if config.learning.self_supervised_epochs else 0,
    }
    card = _card(config, result, evaluation, sizes, command, leakage)
    if isinstance(result.network, ImportedNetwork):
        compose(result.network, folder / "model", card, images.pixels)
    else:
        export(result.network, folder / "model", card)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return Run(result, evaluation, left_out)


def map_of(config: Config, images: Images, numbers: Any, embeddings: Any) -> bytes:
    """The embedding map of some images, coloured by label and by site (by dataset where no site is known)."""
    part = images.part(numbers)
    known = [
        site if site is not None else name for site, name in zip(part.values(config.site), part.datasets, strict=True)
    ]
    labels = [images.classes[label] if label >= 0 else "none of these" for label in part.labels]
    return plots.embedding_map(embeddings, {config.label: labels, config.site: known}, config.seed)


def _card(
    config: Config, fit: Fit, evaluation: Evaluation | None, sizes: dict[str, int], command: str, leakage: str
) -> dict[str, Any]:
    """The model card's own words: what it was trained on, by which command, with which figures."""
    card: dict[str, Any] = {
        "name": config.name,
        **_beginning(config),
        "classes": config.classes,
        "images": sizes,
        "learning": config.learning.model_dump(mode="json"),
        "intended_use": config.intended_use,
        "command": command,
        "seed": config.seed,
        "epoch": fit.epoch,
        "version": __version__,
    }
    if leakage:
        card["leakage"] = leakage
    if evaluation is not None:
        card["figures"] = {
            "what": f"{HELD_OUT}; exact search, the query's patient left out; value and 95 % interval by bootstrap"
            " over patients",
            **{key: evaluation.facts[key] for key in ("queries", "patients", "hardware")},
            **{
                gallery: {
                    method: _rounded(evaluation.figures(gallery, method)) for method in evaluation.retrievals[gallery]
                }
                for gallery in GALLERIES
            },
            "by source": {
                source: {method: _rounded(figures) for method, figures in galleries["archive"].items()}
                for source, galleries in evaluation.by_source.items()
            },
        }
    return card


def _leakage(config: Config, allow_leakage: bool) -> str:
    """What of the held-out patients was seen all the same; empty where nothing was."""
    found, folder = [LEAKAGE] if allow_leakage else [], imported_folder(config)
    if folder is not None:
        card = read_card(folder)
        seen = card.described.get("trained_on", [])
        shared = [name for name in (Path(source.mapping).stem for source in config.data) if name in seen]
        if shared:
            found.append(f"{card.name}, which learning began with, had learnt from images of {', '.join(shared)}")
    return "; ".join(found)


def _beginning(config: Config) -> dict[str, Any]:
    """What learning began with, whose licence that has, and all that was learnt from, then and now."""
    given, datasets, folder = config.network, learnt_datasets(config), imported_folder(config)
    if folder is None:
        start = f"pretrained {given.pretrained}" if given.pretrained else "from random weights"
        backbone = f"open_clip {given.tower}, {start}"
        return {"backbone": backbone, "weights_licence": licence(given.pretrained), "trained_on": datasets}
    card = read_card(folder)
    own = card.described
    how = "left whole as it came" if config.learning.frozen == 1 else "taught further"
    return {
        "backbone": f"{own.get('backbone', card.name)}, {how}",
        "weights_licence": own.get("weights_licence"),
        "based_on": {
            "name": card.name,
            "fingerprint": card.fingerprint,
            "source": own.get("source"),
            "trained_on": own.get("trained_on", []),
            "data_licence": own.get("intended_use", {}).get("data_licence"),
        },
        "trained_on": list(dict.fromkeys([*own.get("trained_on", []), *datasets])),
    }


def _rounded(figures: dict[str, Figure]) -> dict[str, list[float]]:
    return {
        name: [round(figure.value, 4), round(figure.low, 4), round(figure.high, 4)]
        for name, figure in figures.items()
        if name in ON_CARD
    }
