"""What a training step costs beside its bare network, and embedding beside open_clip's own forward pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxrsearch.encoder import Encoder
from cxrsearch.model_card import DEFAULT_MODEL
from trainer.config import Config, HeldOut, LearningSettings, NetworkSettings, TrainingDataset
from trainer.data.images import Images
from trainer.learning.embed import keep_freed_memory
from trainer.learning.export import load_network
from trainer.learning.fit import of_batch
from trainer.learning.imported import new_network
from trainer.learning.objective import Known, Objective
from trainer.learning.sampling import class_batches
from trainer.learning.step import Trainer, processes

ROUNDS, STEPS, BATCH = 3, 6, 60
CONFIG = Config(
    name="bench",
    data=[TrainingDataset(mapping="none")],
    held_out=HeldOut(validation=0, test=0),
    network=NetworkSettings(image_size=128),
    learning=LearningSettings(epochs=100, warm_up_part=0.0),
)


def measure(folder: Path) -> str:
    keep_freed_memory()
    ours, bare = _step(), _bare_step()
    steps = _alternately({"ours": ours, "bare": bare})
    encoder, trunk = _encoder(), _trunk()
    embeds = _alternately({"ours": encoder, "eager": trunk})
    card = Encoder(DEFAULT_MODEL).card
    return f"""\
## Learning and embedding speed

`benchmarks/learning_speed.py`, {CONFIG.network.tower} at {CONFIG.network.image_size} pixels, bf16, batches of \
{BATCH}, {os.cpu_count()} cores, median of {ROUNDS} alternating rounds of {STEPS} steps.

| a training step | images/s |
|---|---|
| forward, backward and optimiser step of the trunk alone, on ready tensors | {BATCH / steps["bare"]:.0f} |
| the whole step: batch, variation, network, losses with miner, clipping, average | {BATCH / steps["ours"]:.0f} |
| **ratio of times** (target: 1.15) | **{steps["ours"] / steps["bare"]:.2f}** |

| embedding with {card.name}, {card.image_size} pixels, float32 | images/s |
|---|---|
| open_clip's eager forward pass of the same trunk | {BATCH / embeds["eager"]:.0f} |
| `encoder.onnx`, head included | {BATCH / embeds["ours"]:.0f} |
| **ratio** (target: 1.5) | **{embeds["eager"] / embeds["ours"]:.2f}** |

No GPU was here: bf16 rates and the share of a GPU's matrix rate are not measured.
"""


def _alternately(calls: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each call, taken turn about so that a noisy minute hits all."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                call()
            found[name].append((time.perf_counter() - started) / STEPS)
    return {name: float(np.median(times)) for name, times in found.items()}


def _step() -> Callable[[], None]:
    accelerator, images = processes(), _images()
    known = Known(torch.from_numpy(images.findings), torch.zeros(len(images), dtype=torch.long))
    objective = Objective(CONFIG.learning, known.findings, CONFIG.network.dimensions)
    trainer = Trainer(CONFIG, new_network(CONFIG), objective, 10_000, accelerator)
    generator, rng = torch.Generator(accelerator.device), np.random.default_rng(0)
    batches = chain.from_iterable(
        class_batches(images.findings, np.array(images.sources), images.owners, BATCH // 3, rng) for _ in count()
    )

    def step() -> None:
        batch = next(batches)
        trainer.step(images.pixels[batch], generator, of_batch(known, batch, accelerator.device), 1.0)

    return step


def _bare_step() -> Callable[[], None]:
    trunk = new_network(CONFIG).trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(trunk.parameters())
    size = CONFIG.network.image_size
    images = torch.rand(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=processes().mixed_precision == "bf16"):
            features = _features(trunk, images)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(features.float().mean())
        optimiser.step()

    return step


def _features(trunk: torch.nn.Module, images: Tensor) -> Tensor:
    found: Tensor = trunk.forward_intermediates(images, indices=1, intermediates_only=True)["image_intermediates"][-1]  # type: ignore[operator]
    return found


def _encoder() -> Callable[[], None]:
    encoder = Encoder(DEFAULT_MODEL)
    size = encoder.card.image_size
    pictures = list(np.random.default_rng(0).random((BATCH, size, size), dtype=np.float32))

    def embed() -> None:
        encoder.embed(pictures)

    return embed


def _trunk() -> Callable[[], None]:
    network = load_network(DEFAULT_MODEL)
    size = network.architecture.image_size
    images = torch.rand(BATCH, 3, size, size)

    def forward() -> None:
        with torch.inference_mode():
            _features(network.trunk, images)

    return forward


def _images() -> Images:
    rng, number, size = np.random.default_rng(0), 900, CONFIG.network.image_size
    return Images(
        ("a", "b", "c"),
        rng.integers(0, 255, (number, size, size), dtype=np.uint8),
        np.full((number, 2), size),
        np.ones(number, dtype=np.int64),
        np.eye(3, dtype=np.int8)[rng.integers(3, size=number)],
        [f"p{n}" for n in range(number)],
        [f"{n}.png" for n in range(number)],
        ["bench"] * number,
        ["bench"] * number,
        [{} for _ in range(number)],
        [str(n) for n in range(number)],
        np.zeros(number, dtype=bool),
        np.zeros(number, dtype=np.int64),
    )
