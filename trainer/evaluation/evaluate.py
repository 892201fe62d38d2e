"""Protocols of evaluation: a model on its held-out part, folds, one site or source at a time, an archive that nobody
has learnt from, and agreement with a reader's scores. Baselines are beside every one (judge.py, agree.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cxrsearch import files
from cxrsearch.errors import InputError
from cxrsearch.imaging.canonical import PICTURE_SIDE
from cxrsearch.model_card import read_card
from trainer.config import Config, HeldOut, NetworkSettings, TrainingDataset
from trainer.data import splits
from trainer.data.claim import claim
from trainer.data.images import Images
from trainer.data.squares import as_learnt, as_seen
from trainer.data.training_set import LEAKAGE
from trainer.evaluation.judge import Evaluation, Judging, judge
from trainer.evaluation.seen import Seen, seen
from trainer.learning.embed import embedder, has_network, network_embedder
from trainer.learning.fit import Line, fit
from trainer.learning.imported import new_network
from trainer.learning.network import Network

HELD_OUT = "patients held out of training and of the choice of the epoch"
# What is said of a model that was not trained by this configuration as it is now.
UNKNOWN = "the configuration's held-out patients; whether this model has seen them is not known"
EVERYTHING = "every labelled image"
# Nothing was learnt from it; it was; nobody knows.
EXTERNAL = "an archive that nothing was learnt from: a part of its patients is searched for among the others"
EXTERNAL_SEEN = "an archive that was learnt from: a part of its patients is searched for among the others"
EXTERNAL_UNKNOWN = "an archive: a part of its patients is searched for among the others"

# The part of an external archive's patients whose images are queries.
EXTERNAL_QUERIES = 0.25


def external_config(mapping: str, root: Path | None, image_size: int = PICTURE_SIDE) -> Config:
    """The configuration of an archive that a model was not trained on: every value of the label is a class."""
    described = TrainingDataset(mapping=mapping, root=None if root is None else str(root))
    # Sizes that we do not train at are an encoder's own all the same.
    network = NetworkSettings().model_copy(update={"image_size": image_size})
    held_out = HeldOut(validation=0.0, test=EXTERNAL_QUERIES)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(mapping).stem).lstrip("-._")[:64] or "archive"
    return Config(name=name, data=[described], network=network, held_out=held_out)


def run(
    config: Config,
    images: Images,
    folder: Path,
    *,
    model: Path | None,
    everything: bool,
    external: bool,
    folds: int | None,
    by: Literal["patient", "image"],
    leave_out: str | None,
    allow_leakage: bool,
    log: Callable[[str, Line], None],
) -> Evaluation:
    """The protocol that was asked for: one of ``model``, ``folds`` and ``leave_out``; results are kept in ``folder``.

    Raises InputError, ModelError.
    """
    if leave_out is not None:
        images.check_field(leave_out, "--leave-out")
    if model is not None:
        protocol = f"{model.name}, everything={everything}, external={external}"
        claim(folder, config, images, protocol, allow_leakage)
        evaluation = of_model(config, images, model, everything, external)
    else:
        unknown = np.zeros(len(images), dtype=bool)
        if folds:
            protocol, parts = f"{folds} folds, drawn by {by}", splits.folds(images, folds, by, config.seed)
        else:
            protocol, parts = f"one {leave_out} left out at a time", splits.sites(images, str(leave_out))
            unknown = splits.unknown(images, str(leave_out))
            if unknown.any():
                protocol += f"; {int(unknown.sum())} images whose {leave_out} is not known are learnt from in none"
        claim(folder, config, images, protocol, allow_leakage)
        evaluation = in_folds(config, images, protocol, parts, unknown, folder, bool(folds) and by == "image", log)
    return stamped(evaluation, LEAKAGE) if allow_leakage else evaluation


def in_folds(
    config: Config,
    images: Images,
    protocol: str,
    parts: Iterator[tuple[str, splits.Mask]],
    never: splits.Mask,
    folder: Path,
    random: bool = False,
    log: Callable[[str, Line], None] = lambda name, line: None,
) -> Evaluation:
    """Train one network for each part, without it, and judge it on it.

    never: what is learnt from in no part.
    folder: keeps each part's weights and checkpoint, so that an evaluation goes on where it was stopped.
    random: parts were drawn by image, so that a patient may be learnt from and judged, which is said.
    """
    judgings, images = [], as_learnt(config, images)
    for number, (name, judged) in enumerate(parts, start=1):
        place = folder / f"part-{number}"
        place.mkdir(parents=True, exist_ok=True)
        usable = splits.learnt_from(images, judged, "image" if random else "patient") & ~never
        network = _trained(config, images, usable, place, lambda line, name=name: log(name, line))  # type: ignore[misc]
        learnt = np.flatnonzero(usable & _counted(images))
        judgings.append(
            Judging(network_embedder(network), learnt, np.flatnonzero(judged & images.judgeable & _counted(images)))
        )
    leakage = "patients are in training and test at once (folds drawn by image)" if random else ""
    return judge(config.name, protocol, images, judgings, leakage)


def of_model(config: Config, images: Images, model: Path, everything: bool, external: bool = False) -> Evaluation:
    """Judge a model folder on the part of the configuration that is held out, or on everything, where the model
    has seen none of it: there is then no archive that it learnt from, only the gallery of unseen images.

    external: the user says that none of the images was learnt from, so that the rest is an archive like any other;
    where the model is known to have learnt from it all the same, the evaluation says so.
    Raises InputError, ModelError.
    """
    card = read_card(model)
    if card.image_size != config.network.image_size and has_network(card):
        raise InputError(
            f"{model}: takes images of {card.image_size} pixels, the configuration gives"
            f" {config.network.image_size}; set network.image_size"
        )
    archive, queries = archive_and_queries(config, images, everything)
    judging = Judging(embedder(model), archive, queries)
    found = seen(config, images, model, card, card.name, everything)
    protocol = protocol_of([found], everything, external)
    if not found.own and not found.leak and found.note:
        protocol = f"{protocol}; {found.note}"
    return judge(card.name, protocol, as_seen(config, images, card.input), [judging], found.leak)


def protocol_of(models: Sequence[Seen], everything: bool, external: bool) -> str:
    """What may be said of the images, by what the models that are judged have seen of them."""
    if everything:
        return EVERYTHING
    if external:
        leak, known = any(one.leak for one in models), not any(one.note for one in models)
        return EXTERNAL_SEEN if leak else EXTERNAL if known else EXTERNAL_UNKNOWN
    return HELD_OUT if all(one.own for one in models) else UNKNOWN


def archive_and_queries(
    config: Config, images: Images, everything: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the images that are searched in, and of those that are searched: the held-out ones, or all, and
    then there is no archive. Images that choose the epoch are in neither. Raises InputError."""
    counted = _counted(images)
    if everything:
        return np.zeros(0, dtype=np.int64), np.flatnonzero(images.judgeable & counted)
    parts = splits.run_parts(images, config.held_out, config.seed)
    if not parts.test.any():
        raise InputError(f"{config.name}: held_out.test is 0, so nothing is held out to judge on; see --all, --folds")
    return np.flatnonzero(parts.learnt & counted), np.flatnonzero(parts.test & images.judgeable & counted)


def stamped(evaluation: Evaluation, leakage: str) -> Evaluation:
    """The evaluation with one more leak to its name."""
    return replace(evaluation, leakage="; ".join(filter(None, (evaluation.leakage, leakage))))


def _counted(images: Images) -> splits.Mask:
    """Which images take part: where each is in one class those in one, else all of which anything is known."""
    return images.labels >= 0 if images.exclusive else images.labelled


def _trained(config: Config, images: Images, usable: splits.Mask, folder: Path, log: Callable[[Line], None]) -> Network:
    weights = folder / "weights.safetensors"
    kept = _kept(config, weights)
    if kept is not None:
        return kept
    taught = np.flatnonzero(usable & images.labelled)
    if (images.findings[taught] == 1).any(axis=0).sum() < 2:
        raise InputError(
            f"{config.name}: {folder.name}: what is left to learn from has fewer than two classes; its patients are in"
            " the part that is left out too, or the field splits the classes"
        )
    validation = None
    if config.held_out.validation:
        choosing = taught[splits.held_out(images.part(taught), config.held_out.validation, config.seed)]
        validation = images.part(choosing)
        # Owners of the whole: an unknown patient's is a number among the images it is asked of.
        usable = usable & ~np.isin(images.owners, images.owners[choosing])
    learnt = images.part(usable & images.labelled)
    result = fit(config, learnt, validation, images.part(usable), folder / "checkpoint.pt", log)
    files.write(weights, save({name: value.contiguous() for name, value in result.network.state_dict().items()}))
    (folder / "checkpoint.pt").unlink(missing_ok=True)  # no epochs write none
    # From the file here too: in another memory layout the last digits differ, and a second run has to say the same.
    network = _kept(config, weights)
    assert network is not None
    return network


def _kept(config: Config, weights: Path) -> Network | None:
    """The network of a part that was learnt before; None where there is none, or its file was cut short."""
    if not weights.exists():
        return None
    try:
        learnt = load_file(weights)
    except SafetensorError:
        return None
    network = new_network(config, pretrained=False)
    network.load_state_dict(learnt)
    return network.eval()
