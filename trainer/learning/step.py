"""One step of learning: what it changes, on one processor or several GPUs, and what has to be kept to go on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.config import Config
from trainer.learning.network import Network, pictures
from trainer.learning.objective import Objective, Views
from trainer.learning.sampling import augment

_LARGEST_GRADIENT = 1.0
# Part of the steps in which the learning rate rises; then it falls as a cosine.
_RISING = 0.15


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
        trunk = {id(weight) for weight in self.network.trunk.parameters()}
        slower = learning.trunk_rate if config.network.pretrained else 1.0
        rates = [learning.learning_rate, learning.learning_rate * slower]
        learnt = [weight for weight in self.learner.parameters() if weight.requires_grad]
        parts = [[weight for weight in learnt if (id(weight) in trunk) == of_trunk] for of_trunk in (False, True)]
        optimiser = torch.optim.AdamW(
            [{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True)],
            weight_decay=learning.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=_RISING)
        self.averaged = copy.deepcopy(self.network)
        self._average = _Average(self.averaged, self.network, learning.decay)
        self._prepared, self.optimiser = accelerator.prepare(self.learner, optimiser)

    def step(self, pixels: NDArray[np.uint8], generator: torch.Generator, *rest: Any) -> tuple[Tensor, Tensor]:
        """Learn from (B, S, S) uint8 pictures; the loss and the spread of their embeddings, still on the device.

        rest: what the objective wants beside embeddings. Without labels each picture is varied twice.
        """
        self._prepared.train()
        shown = pictures(pixels, self.accelerator.device)
        if isinstance(self.learner.objective, Views):
            shown = shown.repeat(2, 1, 1, 1)
        loss, embedding = self._prepared(augment(shown, generator, self.mirror), *rest)
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


def processes() -> Accelerator:
    """This process among those that train together: one, or what ``accelerate launch`` or torchrun started.

    bfloat16 where the hardware has it: a processor that has not takes ten times as long with it as without.
    """
    gpu = torch.cuda.is_available()
    fast = gpu or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Accelerator(mixed_precision="bf16" if fast else "no", cpu=not gpu)


def spread(embedding: Tensor) -> Tensor:
    """Mean distance of (B, D) embeddings from their mean: 0 when all are alike."""
    distances: Tensor = torch.linalg.vector_norm(embedding - embedding.mean(dim=0), dim=1)
    return distances.mean()


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
