"""How well an encoder finds its like: on a held-out part, in folds, or on sites it never saw; floors beside it.

Each query is searched in two galleries, its own patient left out of both: "archive", the images that were learnt
from, as in use; "unseen", the other images that were not, as metric-learning papers do.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from cxrsearch import __version__
from cxrsearch.encoder import read_card
from cxrsearch.errors import InputError
from cxrsearch.statistics import Figure
from trainer.config import Config
from trainer.data import splits
from trainer.data.images import Images
from trainer.evaluation import baselines
from trainer.learning.export import load_network
from trainer.learning.fit import Line, architecture, embed, fit
from trainer.learning.network import Network
from trainer.metrics import retrieval as metrics
from trainer.metrics.retrieval import Retrieval

ENCODER = "the encoder"
HELD_OUT = "patients held out of training and of the choice of the epoch"
# What is said of a model whose card is not of this configuration.
UNKNOWN = "the configuration's held-out patients; whether this model has seen them is not known"
GALLERIES = ("archive", "unseen")
# An encoder that has learnt nothing is drawn from this seed, whatever the configuration's.
_UNTRAINED_SEED = 12345


@dataclass(frozen=True)
class Evaluation:
    """What came of one protocol.

    retrievals: gallery -> method -> its queries; methods are the encoder first, then its baselines.
    queries and galleries: numbers, among the images that were given, of each query and of each fold's gallery images
    (what a Retrieval's neighbours count): query n is of fold ``fold[n]``.
    map_of: the numbers and embeddings of the first fold's judged images.
    """

    name: str
    protocol: str
    retrievals: dict[str, dict[str, Retrieval]]
    queries: NDArray[np.int64]
    fold: NDArray[np.int64]
    galleries: dict[str, list[NDArray[np.int64]]]
    map_of: tuple[NDArray[np.int64], NDArray[np.float32]]
    leakage: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def figures(self, gallery: str, method: str) -> dict[str, Figure]:
        return self._figures[gallery][method]

    @cached_property
    def _figures(self) -> dict[str, dict[str, dict[str, Figure]]]:
        """Bootstrapped once: the table, the JSON and the page all ask."""
        return {g: {name: one.figures() for name, one in methods.items()} for g, methods in self.retrievals.items()}

    def neighbours(self, gallery: str, query: int) -> NDArray[np.int64]:
        """Numbers, among all images, of what query ``query`` found, nearest first; the encoder's."""
        found = self.retrievals[gallery][ENCODER].neighbours[query]
        numbers: NDArray[np.int64] = self.galleries[gallery][int(self.fold[query])][found[found >= 0]]
        return numbers


@dataclass(frozen=True)
class Judging:
    """One network with what it was learnt from (the archive) and what it is judged on."""

    network: Network
    learnt: NDArray[np.int64]
    judged: NDArray[np.int64]


def in_folds(
    config: Config,
    images: Images,
    protocol: str,
    parts: Iterator[tuple[str, splits.Mask]],
    folder: Path,
    random: bool = False,
    log: Callable[[str, Line], None] = lambda name, line: None,
) -> Evaluation:
    """Train one network for each part, without it, and judge it on it.

    folder: keeps each part's weights and checkpoint, so that an evaluation goes on where it was stopped.
    random: parts were drawn by image, so that a patient may be learnt from and judged, which is said.
    """
    _claim(config, protocol, folder)
    judgings = []
    for number, (name, judged) in enumerate(parts, start=1):
        place = folder / f"part-{number}"
        place.mkdir(parents=True, exist_ok=True)
        seen = splits.learnt_from(images, judged, "image" if random else "patient")
        network = _trained(config, images, seen, place, lambda line, name=name: log(name, line))  # type: ignore[misc]
        labelled = images.labels >= 0
        judgings.append(Judging(network, np.flatnonzero(seen & labelled), np.flatnonzero(judged & labelled)))
    leakage = "patients are in training and test at once (folds drawn by image)" if random else ""
    return judge(config.name, protocol, images, judgings, leakage)


def of_model(config: Config, images: Images, model: Path, everything: bool) -> Evaluation:
    """Judge a model folder on the part of the configuration that is held out, or on everything, where the model
    has seen none of it: there is then no archive that it learnt from, only the gallery of unseen images.

    Raises InputError, ModelError.
    """
    card = read_card(model)
    if card.image_size != config.network.image_size:
        raise InputError(
            f"{model}: takes images of {card.image_size} pixels, the configuration gives"
            f" {config.network.image_size}; set network.image_size"
        )
    network, labelled = load_network(model), images.labels >= 0
    if everything:
        every, nothing = np.flatnonzero(labelled), np.zeros(0, dtype=np.int64)
        return judge(card.name, "every labelled image", images, [Judging(network, nothing, every)])
    test = splits.held_out(images, config.held_out.test, config.seed)
    if not test.any():
        raise InputError(f"{config.name}: held_out.test is 0, so nothing is held out to judge on; see --all, --folds")
    learnt = splits.learnt_from(images, test)
    judging = Judging(network, np.flatnonzero(learnt & labelled), np.flatnonzero(test & labelled))
    own = (card.name, card.described.get("seed")) == (config.name, config.seed)
    return judge(card.name, HELD_OUT if own else UNKNOWN, images, [judging])


def stamped(evaluation: Evaluation, leakage: str) -> Evaluation:
    """The evaluation with one more leak to its name."""
    return replace(evaluation, leakage="; ".join(filter(None, (evaluation.leakage, leakage))))


def judge(name: str, protocol: str, images: Images, judgings: list[Judging], leakage: str = "") -> Evaluation:
    """Search every judged image in both galleries, by the encoder and by every floor."""
    galleries = [gallery for gallery in GALLERIES if gallery != "archive" or all(len(one.learnt) for one in judgings)]
    found: dict[str, dict[str, list[Retrieval]]] = {gallery: {} for gallery in galleries}
    fixed = {
        "32 x 32 thumbnails": (baselines.thumbnails(images), "cosine"),
        "image shape": (baselines.shapes(images), "distance"),
        "border only (outer 1/16)": (baselines.borders(images), "cosine"),
    }
    untrained = _untrained(judgings[0].network, images.pixels)
    dark = {
        "lungs blacked out": baselines.without_lungs(images),
        "border blacked out": baselines.without_border(images),
    }
    for one in judgings:
        both = np.concatenate([one.learnt, one.judged])
        vectors: dict[str, tuple[NDArray[np.float32], str]] = {
            ENCODER: (_scattered(one.network, images.pixels, both), "cosine")
        }
        vectors |= {
            f"the encoder, {what}": (_scattered(one.network, pixels, both), "cosine") for what, pixels in dark.items()
        }
        vectors |= {"an untrained encoder": (untrained, "cosine"), **fixed}
        for gallery in galleries:
            at = one.learnt if gallery == "archive" else one.judged
            for method, (features, likeness) in vectors.items():
                retrieval = metrics.retrieve(
                    features[one.judged],
                    images.labels[one.judged],
                    images.owners[one.judged],
                    images.classes,
                    (features[at], images.labels[at], images.owners[at]),
                    likeness,  # type: ignore[arg-type]
                )
                found[gallery].setdefault(method, []).append(retrieval)
            shares = np.bincount(images.labels[at], minlength=len(images.classes)) / max(len(at), 1)
            majority = metrics.constant(images.labels[one.judged], images.owners[one.judged], images.classes, shares)
            found[gallery].setdefault("the majority class", []).append(majority)
    first = judgings[0]
    whole = {g: {method: metrics.joined(parts) for method, parts in methods.items()} for g, methods in found.items()}
    return Evaluation(
        name,
        protocol,
        whole,
        np.concatenate([one.judged for one in judgings]),
        np.concatenate([np.full(len(one.judged), n) for n, one in enumerate(judgings)]),
        {"archive": [one.learnt for one in judgings], "unseen": [one.judged for one in judgings]},
        (first.judged, embed(first.network, images.pixels[first.judged])),
        leakage,
        _facts(images, judgings),
    )


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything a table of an evaluation is made of."""
    return {
        "name": evaluation.name,
        "protocol": evaluation.protocol,
        "leakage": evaluation.leakage,
        **evaluation.facts,
        "galleries": {
            gallery: {
                method: {
                    name: {"value": figure.value, "low": figure.low, "high": figure.high}
                    for name, figure in evaluation.figures(gallery, method).items()
                }
                for method in methods
            }
            for gallery, methods in evaluation.retrievals.items()
        },
        "parts": [
            {gallery: evaluation_part.means() for gallery, evaluation_part in _parts(evaluation, number).items()}
            for number in range(int(evaluation.fold.max()) + 1)
        ],
    }


def _parts(evaluation: Evaluation, number: int) -> dict[str, Retrieval]:
    """The encoder's queries of one fold, in each gallery."""
    mine = evaluation.fold == number
    return {
        gallery: Retrieval(
            whole.classes,
            whole.labels[mine],
            whole.owners[mine],
            {name: values[mine] for name, values in whole.values.items()},
            whole.votes[mine],
            whole.neighbours[mine],
            whole.scores[mine],
        )
        for gallery, methods in evaluation.retrievals.items()
        for whole in [methods[ENCODER]]
    }


def _facts(images: Images, judgings: list[Judging]) -> dict[str, Any]:
    judged = np.concatenate([one.judged for one in judgings])
    return {
        "queries": len(judged),
        "patients": len(set(images.owners[judged].tolist())),
        "classes": {name: int((images.labels[judged] == number).sum()) for number, name in enumerate(images.classes)},
        "folds": len(judgings),
        "version": __version__,
        "day": datetime.date.today().isoformat(),
        "hardware": _hardware(),
    }


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} CPU cores"


def _trained(config: Config, images: Images, seen: splits.Mask, folder: Path, log: Callable[[Line], None]) -> Network:
    weights = folder / "weights.safetensors"
    if weights.exists():
        network = Network(architecture(config))
        network.load_state_dict(load_file(weights))
        return network.eval()
    learnt = images.part(seen & (images.labels >= 0))
    validation = None
    if config.held_out.validation:
        choosing = splits.held_out(learnt, config.held_out.validation, config.seed)
        learnt, validation = learnt.part(~choosing), learnt.part(choosing)
        seen = seen & splits.learnt_from(images, np.isin(images.owners, validation.owners))
    result = fit(config, learnt, validation, images.part(seen), folder / "checkpoint.pt", log)
    save_file({name: value.contiguous() for name, value in result.network.state_dict().items()}, weights)
    (folder / "checkpoint.pt").unlink()
    # From the file here too: in another memory layout the last digits differ, and a second run has to say the same.
    network = Network(architecture(config))
    network.load_state_dict(load_file(weights))
    return network.eval()


def _scattered(network: Network, pixels: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, D) embeddings where ``at`` says, zeros elsewhere."""
    found = embed(network, pixels[at])
    vectors = np.zeros((len(pixels), found.shape[1]), dtype=np.float32)
    vectors[at] = found
    return vectors


def _untrained(like: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.random.fork_rng():
        torch.manual_seed(_UNTRAINED_SEED)
        return embed(Network(like.architecture), pixels)


def _claim(config: Config, protocol: str, folder: Path) -> None:
    """A folder belongs to one configuration and protocol. Raises InputError where it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    mark, mine = folder / "configuration.json", config.digest_text + "\n" + protocol + "\n"
    if mark.exists() and mark.read_text("utf-8") != mine:
        raise InputError(f"{folder}: holds an evaluation of another configuration or protocol; give another --out")
    mark.write_text(mine, "utf-8")
