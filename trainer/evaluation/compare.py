"""Two encoders on the same queries, in the same galleries: by how much one is better, and how sure that is.

The bootstrap over patients is paired: in each resample both encoders are judged on the same patients, so that what
makes some patients hard for both falls out of the difference. Both are run by their files, as search runs them.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch import __version__
from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError, UsageError
from cxrsearch.statistics import Figure, Floats, figure
from trainer.config import Config
from trainer.data.images import Images
from trainer.data.squares import squares
from trainer.evaluation import baselines
from trainer.evaluation.evaluate import archive_and_queries, protocol_of
from trainer.evaluation.judge import FROZEN, GALLERIES, THUMBNAILS, hardware, search
from trainer.evaluation.page import COLUMNS, FINDING_COLUMNS
from trainer.evaluation.seen import seen
from trainer.learning.embed import embed_by_file

# Patients with queries, below which a bootstrap over them says little.
FEWEST_PATIENTS = 20
# Pictures read and embedded at once.
_BATCH = 64


@dataclass(frozen=True)
class MetricComparison:
    """One metric in one gallery.

    gallery: "archive" or "unseen". metric: its name.
    first, second: of the two encoders. baselines: of each baseline, by name.
    difference: second less first, with the interval of the paired bootstrap.
    second_better: in which part (0..1) of the resamples the second is better; a draw is half.
    """

    gallery: str
    metric: str
    first: Figure
    second: Figure
    difference: Figure
    second_better: float
    baselines: dict[str, Figure]


@dataclass(frozen=True)
class EncoderComparison:
    """names: of the two encoders. exclusive: whether every image is in exactly one class, which decides the metrics.
    notes: what has to be known of the figures, such as which encoder learnt from these images."""

    names: tuple[str, str]
    protocol: str
    exclusive: bool
    metrics: list[MetricComparison]
    notes: list[str]
    facts: dict[str, Any]


def different(first: Path, second: Path) -> tuple[Encoder, Encoder]:
    """The encoders of two model folders. Raises ModelError, and UsageError where they are one."""
    encoders = Encoder(first), Encoder(second)
    # One file may be two encoders, by what it is given or by which of its outputs counts.
    made = [(card.fingerprint, card.input, card.output, card.pooling) for card in (one.card for one in encoders)]
    if made[0] == made[1]:
        names = " and ".join(dict.fromkeys(one.card.name for one in encoders))
        raise UsageError(f"{names}: the same encoder twice; cxrsearch models lists those there are")
    return encoders


def compare(
    config: Config,
    images: Images,
    folders: tuple[Path, Path],
    encoders: tuple[Encoder, Encoder],
    everything: bool = False,
    external: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> EncoderComparison:
    """Search the held-out images by two encoders and by the baselines.

    everything: every labelled image, among the others. external: nothing of these images was learnt from, the user
    says. advance: told how many of how many embeddings are made.

    Raises InputError where there are too few patients, ModelError for an encoder that gives no vectors.
    """
    archive, queries = archive_and_queries(config, images, everything)
    patients = len(set(images.owners[queries].tolist()))
    if patients < FEWEST_PATIENTS:
        raise InputError(
            f"{config.name}: {patients} patients to judge on; a comparison takes {FEWEST_PATIENTS}."
            " Hold out more of them (held_out.test), or judge on all (--all) where neither model learnt from them."
        )
    both = np.concatenate([archive, queries])

    def begun(number: int) -> Callable[[int], None]:
        return lambda done: advance(number * len(both) + done, 2 * len(both))

    first, second = (_vectors(config, images, one, both, begun(number)) for number, one in enumerate(encoders))
    beside = {FROZEN: baselines.frozen_trunk(images), THUMBNAILS: baselines.thumbnails(images)}
    metrics = []
    for gallery, at in zip(GALLERIES, (archive, queries), strict=True):
        if not len(at):
            continue
        of_first, of_second, *rest = (
            search(images, vectors, queries, at).series(config.seed) for vectors in (first, second, *beside.values())
        )
        for metric, series in of_first.items():
            difference = of_second[metric] - series
            floors = {name: figure(one[metric]) for name, one in zip(beside, rest, strict=True)}
            metrics.append(
                MetricComparison(
                    gallery, metric, figure(series), figure(of_second[metric]), figure(difference),
                    _better(difference), floors,
                )
            )  # fmt: skip
    cards = [encoder.card for encoder in encoders]
    same_name = cards[0].name == cards[1].name
    first_name, second_name = (
        str(folder) if same_name else card.name for folder, card in zip(folders, cards, strict=True)
    )
    facts = {
        "models": {first_name: cards[0].fingerprint, second_name: cards[1].fingerprint},
        "configuration": config.name,
        "queries": len(queries),
        "patients": patients,
        "seed": config.seed,
        "version": __version__,
        "day": datetime.date.today().isoformat(),
        "hardware": hardware(),
    }
    both_seen = [
        seen(config, images, folder, card, name, everything)
        for folder, card, name in zip(folders, cards, (first_name, second_name), strict=True)
    ]
    return EncoderComparison(
        (first_name, second_name),
        protocol_of(both_seen, everything, external),
        images.exclusive,
        metrics,
        [one.note for one in both_seen if one.note],
        facts,
    )


def rows(found: EncoderComparison) -> list[dict[str, Any]]:
    """A row for each metric, numbers only: what CSV and JSON have."""
    return [
        {
            "gallery": one.gallery,
            "metric": one.metric,
            **_columns("a", one.first),
            **_columns("b", one.second),
            **_columns("difference", one.difference),
            "b_better": one.second_better,
            **{
                column: value
                for name, figure in one.baselines.items()
                for column, value in _columns(name, figure).items()
            },
        }
        for one in found.metrics
    ]


def cells(found: EncoderComparison) -> list[dict[str, Any]]:
    """The rows of a table for people: the metrics that evaluate shows, by the names it gives them, and of intervals
    the difference's."""
    words = COLUMNS if found.exclusive else FINDING_COLUMNS
    shown = {one: n for n, one in enumerate(words)}
    chosen = [one for one in found.metrics if one.metric in shown]
    return [
        {
            "gallery": one.gallery,
            "metric": words[one.metric],
            "A": f"{one.first.value:.3f}",
            "B": f"{one.second.value:.3f}",
            "B - A": one.difference.written("+.3f"),
            "B better": f"{one.second_better:.1%}",
            **{name: f"{figure.value:.3f}" for name, figure in one.baselines.items()},
        }
        for one in sorted(chosen, key=lambda one: (GALLERIES.index(one.gallery), shown[one.metric]))
    ]


def _columns(name: str, figure: Figure) -> dict[str, float | None]:
    """None for what is no number, such as the AUC of a class that no query is in."""
    values = {name: figure.value, f"{name} low": figure.low, f"{name} high": figure.high}
    return {column: None if math.isnan(value) else value for column, value in values.items()}


def _better(difference: Floats) -> float:
    """In which part of the resamples a series of differences is above zero; a draw is half."""
    drawn = difference[1:][~np.isnan(difference[1:])]
    return float(((drawn > 0) + 0.5 * (drawn == 0)).mean()) if len(drawn) else 0.5


def _vectors(
    config: Config, images: Images, encoder: Encoder, wanted: NDArray[np.int64], advance: Callable[[int], None]
) -> NDArray[np.float32]:
    """(N, D): the embeddings of the images whose numbers are wanted, zeros elsewhere."""
    found = np.zeros((len(images), encoder.card.dimensions), dtype=np.float32)
    part = images.part(wanted)
    seen = squares(config, part, encoder.card.input)
    done = 0
    while batch := list(islice(seen, _BATCH)):
        done += len(batch)
        found[wanted[[number for number, _ in batch]]] = embed_by_file(
            encoder, np.stack([square for _, square in batch])
        )
        advance(done)
    return found
