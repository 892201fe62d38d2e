"""The training loop: images with classes -> a network whose neighbours share their class.

One process, or several GPUs under ``accelerate launch``. Every epoch draws its randomness from the seed and its own
number, so a run repeats, and one that was killed goes on as if it had not been.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor

from cxrsearch.errors import InputError
from cxrsearch.files import replacing
from trainer.config import Config
from trainer.data.images import Images
from trainer.learning.embed import embed, keep_freed_memory
from trainer.learning.imported import new_network
from trainer.learning.network import Network
from trainer.learning.objective import Known, Objective, Views
from trainer.learning.sampling import class_batches, plain_batches
from trainer.learning.start import begin_at_findings, go_back
from trainer.learning.step import Trainer, processes
from trainer.metrics.findings import retrieve_findings

# Mean distance of an embedding from the mean of its batch (0: all alike; 1: spread over the whole sphere).
COLLAPSED_SPREAD = 0.02
# Epochs in which a network may still be finding its feet.
_BEFORE_JUDGING = 3

# Beside a checkpoint: what a run goes on from that was killed while it learned without labels.
WITHOUT_LABELS = "without-labels.pt"

Line = dict[str, float]


@dataclass
class Fit:
    """The network that was kept, in eval mode on the CPU; the epoch it is of; one line of figures an epoch."""

    network: Network
    epoch: int
    history: list[Line] = field(default_factory=list)


def fit(
    config: Config,
    images: Images,
    validation: Images | None = None,
    unlabelled: Images | None = None,
    checkpoint: Path | None = None,
    log: Callable[[Line], None] = lambda line: None,
) -> Fit:
    """Learn from ``images``, after learning from ``unlabelled`` without labels where the configuration says so.

    validation: other patients' images, which choose the epoch by mean average precision among themselves; without, the
    last is kept. checkpoint: a file written after every epoch, from which a killed run goes on; while it learns without
    labels, the file ``WITHOUT_LABELS`` beside it.
    No epochs at all keep where learning begins (trainer/learning/start.py).
    Raises InputError when the embedding collapses.
    """
    keep_freed_memory()
    learning = config.learning
    accelerator = processes()
    torch.manual_seed(config.seed)
    network = new_network(config)
    resumed = checkpoint is not None and checkpoint.exists()
    if config.network.pretrained:
        begin_at_findings(network, images.pixels, images.findings, np.array(images.sources))
        network.freeze(learning.frozen)
        if not learning.epochs:
            return Fit(network.eval(), 0)
    start = {name: value.clone() for name, value in network.state_dict().items()} if learning.back_to_start else {}
    beside = None if checkpoint is None else checkpoint.with_name(WITHOUT_LABELS)
    without_labels: list[Line] = []
    if unlabelled is not None and learning.self_supervised_epochs and not resumed:
        network, without_labels = _pretrain_self_supervised(config, network, unlabelled, accelerator, beside, log)
    known = _known(config, network, images, start=not resumed)
    objective = Objective(learning, known.findings, config.network.dimensions)
    steps = sum(1 for _ in _batches(config, images, 0, accelerator))
    trainer = Trainer(config, network, objective, steps * learning.epochs, accelerator)
    best: dict[str, Any] = {"score": -1.0, "epoch": 0}
    history: list[Line] = []
    if checkpoint is not None and resumed:
        kept = _restored(trainer, checkpoint)
        best, history, known = kept["best"], kept["history"], replace(known, start=kept["start"])
        without_labels = kept.get("without_labels", [])  # one written before these were kept has none
        for line in without_labels + history:
            log(line)
    for epoch in range(len(history) + 1, learning.epochs + 1):
        started, generator = time.monotonic(), _seeded(config.seed, epoch, accelerator)
        results, done = [], (epoch - 1) / learning.epochs
        for batch in _batches(config, images, epoch, accelerator):
            results.append(
                trainer.step(images.pixels[batch], generator, of_batch(known, batch, accelerator.device), done)
            )
        line = {"epoch": float(epoch), "epochs": float(learning.epochs)} | _line(results, len(batch), started, trainer)
        if validation is not None:
            line |= _validated(trainer.averaged, validation)
        line["seconds"] = time.monotonic() - started
        (line,) = broadcast_object_list([line])  # every process stops, and keeps, as the first one does
        _check(config, line, epoch)
        history.append(line)
        score = line.get("validation_map", float(epoch))
        if score > best["score"]:
            weights = {name: value.clone() for name, value in trainer.averaged.state_dict().items()}
            best = {"score": score, "epoch": epoch, "weights": weights}
        if accelerator.is_main_process:
            if checkpoint is not None:
                state = {"trainer": trainer.state(), "best": best, "history": history, "start": known.start}
                _save(state | {"without_labels": without_labels}, checkpoint)
                checkpoint.with_name(WITHOUT_LABELS).unlink(missing_ok=True)
            log(line)
    trainer.averaged.load_state_dict(best["weights"])
    accelerator.free_memory()
    averaged: Network = trainer.averaged.cpu().eval()
    if learning.back_to_start:
        go_back(averaged, start, learning.back_to_start)
    return Fit(averaged, int(best["epoch"]), history)


def _pretrain_self_supervised(
    config: Config,
    network: Network,
    images: Images,
    accelerator: Accelerator,
    checkpoint: Path | None,
    log: Callable[[Line], None],
) -> tuple[Network, list[Line]]:
    """Two views of every image are brought together, and apart from all others. Gives the network and its history.

    Raises InputError for fewer than two images, of which none can be told from another.
    """
    learning, size = (
        config.learning,
        min(config.learning.images_per_class * 2, len(images) // accelerator.num_processes),
    )
    if size < 2:
        raise InputError(f"{config.name}: {len(images)} images are too few to learn from without labels")
    steps = max(1, len(images) // size // accelerator.num_processes) * learning.self_supervised_epochs
    trainer = Trainer(config, network, Views(), steps, accelerator)
    history: list[Line] = []
    if checkpoint is not None and checkpoint.exists():
        history = _restored(trainer, checkpoint)["history"]
        for line in history:
            log(line)
    for epoch in range(len(history) + 1, learning.self_supervised_epochs + 1):
        started, generator = time.monotonic(), _seeded(config.seed, -epoch, accelerator)
        rng = np.random.default_rng([config.seed, epoch, 1])  # the same order everywhere, shared out below
        batches = list(plain_batches(len(images), size, rng))
        shared = len(batches) // accelerator.num_processes * accelerator.num_processes  # one more would wait for ever
        batches = batches[accelerator.process_index : shared : accelerator.num_processes]
        results = [trainer.step(images.pixels[batch], generator) for batch in batches]
        line = {"self_supervised_epoch": float(epoch)} | _line(results, size, started, trainer)
        _check(config, line, epoch)
        history.append(line)
        if accelerator.is_main_process:
            if checkpoint is not None:
                _save({"trainer": trainer.state(), "history": history}, checkpoint)
            log(line)
    averaged: Network = trainer.averaged
    return averaged, history


def _line(results: list[tuple[Tensor, Tensor]], size: int, started: float, trainer: Trainer) -> Line:
    """One epoch's figures; its losses leave the device here, all at once."""
    losses, spreads = (torch.stack(column) for column in zip(*results, strict=True))
    images = len(results) * size * trainer.accelerator.num_processes
    return {
        "loss": float(losses.mean()),
        "spread": float(spreads.mean()),
        "images_per_second": images / (time.monotonic() - started),
        "learning_rate": float(trainer.schedule.get_last_lr()[0]),
    }


def _validated(network: Network, images: Images) -> Line:
    vectors = embed(network, images.pixels)
    found = retrieve_findings(vectors, images.findings, images.owners, images.classes).means()
    return {"validation_map": found["map"], "validation_precision_at_10": found["precision_at_10"]}


def _known(config: Config, network: Network, images: Images, start: bool) -> Known:
    """What is known of the images, and (``start``) where each was before learning, where that is to be kept."""
    _, sources = np.unique(images.sources, return_inverse=True)
    vectors = torch.from_numpy(embed(network, images.pixels)) if start and config.learning.distillation else None
    return Known(torch.from_numpy(images.findings), torch.from_numpy(sources), vectors)


def of_batch(known: Known, batch: NDArray[np.int64], device: torch.device) -> Known:
    """What is known of some of the images, on the device."""
    start = None if known.start is None else known.start[batch].to(device)
    return Known(known.findings[batch].to(device), known.sources[batch].to(device), start)


def _check(config: Config, line: Line, epoch: int) -> None:
    if not math.isfinite(line["loss"]) or (line["spread"] < COLLAPSED_SPREAD and epoch > _BEFORE_JUDGING):
        raise InputError(
            f"{config.name}: the embedding collapsed at epoch {epoch} (spread {line['spread']:.3f}, loss"
            f" {line['loss']:.3f}): all images look alike to it. Use learning.warm_up = 'beside', or a lower"
            " learning_rate."
        )


def _save(whole: dict[str, Any], path: Path) -> None:
    """Raises InputError where it cannot be written. In memory first: of a full disk torch says nothing of use."""
    content = io.BytesIO()
    torch.save(whole, content)
    with replacing(path) as draft:
        draft.write_bytes(content.getbuffer())


def _restored(trainer: Trainer, path: Path) -> dict[str, Any]:
    """What was saved beside the trainer's state. Raises InputError for a file that is no checkpoint of this run."""
    try:
        whole: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        trainer.restore(whole["trainer"])
        return whole
    except Exception as error:  # whatever reading a damaged or foreign file raises
        what = type(error).__name__
        raise InputError(f"{path}: not a checkpoint of this run ({what}); delete it to begin again") from None


def _batches(config: Config, images: Images, epoch: int, accelerator: Accelerator) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng([config.seed, epoch, accelerator.process_index])
    per_class, sources = config.learning.images_per_class, np.array(images.sources)
    return class_batches(images.findings, sources, images.owners, per_class, rng, accelerator.num_processes)


def _seeded(seed: int, epoch: int, accelerator: Accelerator) -> torch.Generator:
    number = (seed * 1_000_003 + epoch * 1009 + accelerator.process_index) % 2**63
    torch.manual_seed(number)  # dropout, where a tower has any
    return torch.Generator(accelerator.device).manual_seed(number)
