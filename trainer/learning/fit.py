"""The training loop: images with classes -> a network whose neighbours share their class.

One process, or several GPUs under ``accelerate launch``. Every epoch draws its randomness from the seed and its own
number, so a run repeats, and one that was killed goes on as if it had not been.
"""

from __future__ import annotations

import copy
import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrsearch.errors import InputError
from cxrsearch.files import replacing
from trainer.config import Config
from trainer.data.images import Images
from trainer.learning.network import Architecture, Network
from trainer.learning.objective import Objective, Views
from trainer.learning.sampling import augment, class_batches, plain_batches
from trainer.metrics.retrieval import retrieve

# Mean distance of an embedding from the mean of its batch (0: all alike; 1: spread over the whole sphere).
COLLAPSED_SPREAD = 0.02
# Epochs in which a network may still be finding its feet.
_BEFORE_JUDGING = 3
_LARGEST_GRADIENT = 1.0
# Part of the steps in which the learning rate rises; then it falls as a cosine.
_RISING = 0.15

Line = dict[str, float]


@dataclass
class Fit:
    """The network that was kept, in eval mode on the CPU; the epoch it is of; one line of figures an epoch."""

    network: Network
    epoch: int
    history: list[Line] = field(default_factory=list)


class Learner(nn.Module):
    """The network with what it is trained by, so that one call is one step's loss on any number of GPUs."""

    def __init__(self, network: Network, objective: Objective | Views) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, images: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """The loss, and the embeddings that gave it, (B, D) float32."""
        embedding = self.network(images).embedding.float()
        if isinstance(self.objective, Views):
            first, second = embedding.chunk(2)
            return self.objective(first, second), embedding
        return self.objective(embedding, *rest), embedding


class Trainer:
    """A network on its way: what a step changes, and what has to be kept to go on after a kill."""

    def __init__(
        self, config: Config, network: Network, objective: Objective | Views, steps: int, accelerator: Accelerator
    ) -> None:
        """steps: how many there will be, for the learning rate's schedule."""
        learning, self.accelerator = config.learning, accelerator
        self.mirror = learning.mirror
        self.network = network.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learner = Learner(self.network, objective)
        optimiser = torch.optim.AdamW(
            self.learner.parameters(), lr=learning.learning_rate, weight_decay=learning.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, learning.learning_rate, total_steps=steps, pct_start=_RISING
        )
        self.averaged = copy.deepcopy(self.network)
        self._average = _Average(self.averaged, self.network, learning.decay)
        self._prepared, self.optimiser = accelerator.prepare(self.learner, optimiser)

    def step(self, pixels: NDArray[np.uint8], generator: torch.Generator, *rest: Any) -> tuple[Tensor, Tensor]:
        """Learn from (B, S, S) uint8 pictures; the loss and the spread of their embeddings, still on the device.

        rest: what the objective wants beside embeddings. Without labels each picture is varied twice.
        """
        self._prepared.train()
        pictures = _pictures(pixels, self.accelerator.device)
        if isinstance(self.learner.objective, Views):
            pictures = pictures.repeat(2, 1, 1, 1)
        loss, embedding = self._prepared(augment(pictures, generator, self.mirror), *rest)
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self._prepared.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()
        self.schedule.step()
        self._average.take()
        return loss.detach(), spread(embedding.detach())

    def state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "averaged": self.averaged.state_dict(),
            "steps": self._average.steps,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self._average.steps = state["steps"]


def fit(
    config: Config,
    images: Images,
    validation: Images | None = None,
    unlabelled: Images | None = None,
    checkpoint: Path | None = None,
    log: Callable[[Line], None] = lambda line: None,
) -> Fit:
    """Learn from ``images``, after learning from ``unlabelled`` without labels where the configuration says so.

    validation: other patients' images, which choose the epoch by MAP@R among themselves; without, the last is kept.
    checkpoint: a file written after every epoch, from which a killed run goes on.
    Raises InputError when the embedding collapses.
    """
    keep_freed_memory()
    learning = config.learning
    accelerator = processes()
    torch.manual_seed(config.seed)
    network = Network(architecture(config), config.network.pretrained)
    resumed = checkpoint is not None and checkpoint.exists()
    if unlabelled is not None and learning.self_supervised_epochs and not resumed:
        network = _pretrain_self_supervised(config, network, unlabelled, accelerator, log)
    objective = Objective(learning, len(images.classes), config.network.dimensions)
    steps = sum(1 for _ in _batches(config, images, 0, accelerator))
    trainer = Trainer(config, network, objective, steps * learning.epochs, accelerator)
    best: dict[str, Any] = {"score": -1.0, "epoch": 0}
    history: list[Line] = []
    if checkpoint is not None and resumed:
        best, history = _restored(trainer, checkpoint)
        for line in history:
            log(line)
    for epoch in range(len(history) + 1, learning.epochs + 1):
        started, generator = time.monotonic(), _seeded(config.seed, epoch, accelerator)
        results, done = [], (epoch - 1) / learning.epochs
        for batch in _batches(config, images, epoch, accelerator):
            labels = torch.from_numpy(images.labels[batch]).to(accelerator.device)
            results.append(trainer.step(images.pixels[batch], generator, labels, done))
        line = {"epoch": float(epoch), "epochs": float(learning.epochs)} | _line(results, len(batch), started, trainer)
        if validation is not None:
            line |= _validated(trainer.averaged, validation)
        line["seconds"] = time.monotonic() - started
        (line,) = broadcast_object_list([line])  # every process stops, and keeps, as the first one does
        _check(config, line, epoch)
        history.append(line)
        score = line.get("validation_map_at_r", float(epoch))
        if score > best["score"]:
            weights = {name: value.clone() for name, value in trainer.averaged.state_dict().items()}
            best = {"score": score, "epoch": epoch, "weights": weights}
        if accelerator.is_main_process:
            if checkpoint is not None:
                _save({"trainer": trainer.state(), "best": best, "history": history}, checkpoint)
            log(line)
    trainer.averaged.load_state_dict(best["weights"])
    accelerator.free_memory()
    return Fit(trainer.averaged.cpu().eval(), int(best["epoch"]), history)


def processes() -> Accelerator:
    """This process among those that train together: one, or what ``accelerate launch`` or torchrun started."""
    return Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())


def architecture(config: Config) -> Architecture:
    given = config.network
    return Architecture(given.tower, given.image_size, given.dimensions, given.attention)


def embed(network: Network, pixels: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """(N, S, S) uint8 -> (N, D) float32 of unit length."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    with torch.inference_mode():
        found = [
            network(_pictures(pixels[start : start + batch], device)).embedding.cpu().numpy()
            for start in range(0, len(pixels), batch)
        ]
    return np.concatenate(found)


def spread(embedding: Tensor) -> Tensor:
    """Mean distance of (B, D) embeddings from their mean: 0 when all are alike."""
    distances: Tensor = torch.linalg.vector_norm(embedding - embedding.mean(dim=0), dim=1)
    return distances.mean()


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step: without this a fifth of a CPU step is page faults.

    M_MMAP_MAX and M_TRIM_THRESHOLD of mallopt(3); another C library than glibc is left as it is.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)


def _pretrain_self_supervised(
    config: Config, network: Network, images: Images, accelerator: Accelerator, log: Callable[[Line], None]
) -> Network:
    """Two views of every image are brought together, and apart from all others."""
    learning, size = config.learning, config.learning.images_per_class * 2
    steps = max(1, len(images) // size // accelerator.num_processes) * learning.self_supervised_epochs
    trainer = Trainer(config, network, Views(), steps, accelerator)
    for epoch in range(1, learning.self_supervised_epochs + 1):
        started, generator = time.monotonic(), _seeded(config.seed, -epoch, accelerator)
        rng = np.random.default_rng([config.seed, epoch, 1])  # the same order everywhere, shared out below
        batches = list(plain_batches(len(images), size, rng))
        shared = len(batches) // accelerator.num_processes * accelerator.num_processes  # one more would wait for ever
        batches = batches[accelerator.process_index : shared : accelerator.num_processes]
        results = [trainer.step(images.pixels[batch], generator) for batch in batches]
        line = {"self_supervised_epoch": float(epoch)} | _line(results, size, started, trainer)
        _check(config, line, epoch)
        if accelerator.is_main_process:
            log(line)
    averaged: Network = trainer.averaged
    return averaged


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
    found = retrieve(embed(network, images.pixels), images.labels, images.owners, images.classes).means()
    return {"validation_map_at_r": found["map_at_r"], "validation_precision_at_1": found["precision_at_1"]}


def _check(config: Config, line: Line, epoch: int) -> None:
    if not math.isfinite(line["loss"]) or (line["spread"] < COLLAPSED_SPREAD and epoch > _BEFORE_JUDGING):
        raise InputError(
            f"{config.name}: the embedding collapsed at epoch {epoch} (spread {line['spread']:.3f}, loss"
            f" {line['loss']:.3f}): all images look alike to it. Use learning.warm_up = 'beside', or a lower"
            " learning_rate."
        )


def _save(whole: dict[str, Any], path: Path) -> None:
    with replacing(path) as draft:
        torch.save(whole, draft)


def _restored(trainer: Trainer, path: Path) -> tuple[dict[str, Any], list[Line]]:
    """The best epoch so far and the history. Raises InputError for a file that is no checkpoint of this run."""
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        trainer.restore(whole["trainer"])
        return whole["best"], whole["history"]
    except Exception as error:  # whatever reading a damaged or foreign file raises
        what = type(error).__name__
        raise InputError(f"{path}: not a checkpoint of this run ({what}); delete it to begin again") from None


def _batches(config: Config, images: Images, epoch: int, accelerator: Accelerator) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng([config.seed, epoch, accelerator.process_index])
    return class_batches(images.labels, images.owners, config.learning.images_per_class, rng, accelerator.num_processes)


def _seeded(seed: int, epoch: int, accelerator: Accelerator) -> torch.Generator:
    number = (seed * 1_000_003 + epoch * 1009 + accelerator.process_index) % 2**63
    torch.manual_seed(number)  # dropout, where a tower has any
    return torch.Generator(accelerator.device).manual_seed(number)


def _pictures(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, S, S) uint8 -> (B, 1, S, S) float32 in 0..1, on the device."""
    return torch.from_numpy(pixels).to(device).float().div_(255).unsqueeze(1)


class _Average:
    """Exponential moving average of the weights and batch-norm statistics; counters are copied.

    Young averages forget faster: (1 + n) / (10 + n) after n steps, as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, averaged: Network, network: Network, decay: float) -> None:
        pairs = list(zip(averaged.state_dict().values(), network.state_dict().values(), strict=True))
        self.kept = [kept for kept, new in pairs if new.is_floating_point()]
        self.new = [new for _, new in pairs if new.is_floating_point()]
        self.counters = [(kept, new) for kept, new in pairs if not new.is_floating_point()]
        self.decay, self.steps = decay, 0

    def take(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.kept, self.new, 1 - decay)
            for kept, new in self.counters:
                kept.copy_(new)
