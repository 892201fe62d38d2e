"""Whether the neighbours that an encoder finds agree with an image in scores that a reader gave it, zone by zone."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch import __version__
from cxrsearch.errors import InputError
from cxrsearch.model_card import read_card
from cxrsearch.statistics import Figure
from trainer.config import Config
from trainer.data.images import Images
from trainer.data.squares import as_seen
from trainer.data.training_set import LEAKAGE
from trainer.evaluation import baselines
from trainer.evaluation.judge import ENCODER, FROZEN, THUMBNAILS, hardware
from trainer.evaluation.seen import seen
from trainer.learning.embed import embedder
from trainer.metrics.agreement import agreement

# Fewer images with scores tell nothing.
FEWEST = 20
_RANDOM = "random neighbours"


@dataclass(frozen=True)
class ScoreAgreement:
    """name: the model. methods: the encoder first, then its baselines, each with its figures.
    notes: what has to be known of the figures, such as that the encoder learnt from these images."""

    name: str
    methods: dict[str, dict[str, Figure]]
    notes: list[str]
    facts: dict[str, Any]


def agree(
    config: Config, images: Images, fields: list[str], model: Path, allow_leakage: bool = False
) -> ScoreAgreement:
    """Search every image that may be judged on and has all the scores among the others, its own patient left out.

    fields: numbers; those of the right lung first where they are zones. allow_leakage: images of unknown patients were
    taken for patients of their own, which is said. Raises InputError, ModelError.
    """
    fields = [name.strip() for name in fields]
    for name in fields:
        images.check_field(name, "--agreement")
    card = read_card(model)
    values = [[payload.get(name) for name in fields] for payload in images.payloads]
    numbers = np.array(
        [[v if isinstance(v, int | float) and not isinstance(v, bool) else np.nan for v in row] for row in values],
        dtype=np.float64,
    ).reshape(len(images), len(fields))
    known = np.flatnonzero(images.judgeable & ~np.isnan(numbers).any(axis=1))
    scored = images.part(known)
    if len(scored) < FEWEST:
        raise InputError(
            f"--agreement {','.join(fields)}: {len(scored)} images have a number in all of these fields, and a class;"
            f" at least {FEWEST} are needed"
        )
    scores = numbers[known]
    rng = np.random.default_rng(config.seed)
    random = rng.normal(size=(len(scored), 64)).astype(np.float32)
    vectors = {
        ENCODER: embedder(model)(as_seen(config, scored, card.input).pixels),
        FROZEN: baselines.frozen_trunk(scored),
        THUMBNAILS: baselines.thumbnails(scored),
        _RANDOM: random / np.linalg.norm(random, axis=1, keepdims=True),
    }
    found = {name: agreement(one, scores, scored.owners, fields).figures(config.seed) for name, one in vectors.items()}
    facts = {
        "fields": fields,
        "images": len(scored),
        "patients": len(set(scored.owners.tolist())),
        "seed": config.seed,
        "version": __version__,
        "day": datetime.date.today().isoformat(),
        "hardware": hardware(),
    }
    note = seen(config, images, model, card, card.name, everything=True).note
    notes = [*(f"LEAKAGE: {LEAKAGE}" for _ in range(allow_leakage)), *([note] if note else [])]
    return ScoreAgreement(card.name, found, notes, facts)


def as_json(found: ScoreAgreement) -> dict[str, Any]:
    methods = {
        method: {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in figures.items()}
        for method, figures in found.methods.items()
    }
    protocol = "agreement with a reader's scores"
    return {"name": found.name, "protocol": protocol, "notes": found.notes, **found.facts, "methods": methods}
