"""What a training step sees: P classes x K images of different patients, and how they are varied."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def class_batches(
    labels: Sequence[int], patients: Sequence[str], per_class: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Batches of ``per_class`` images of every class, as many as the largest class has images.

    Each class draws patients without repetition, then one image of each, so a batch rarely holds two
    images of one patient, and a small class is repeated as often as the largest needs.
    """
    images: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (label, patient) in enumerate(zip(labels, patients, strict=True)):
        images[label][patient].append(index)
    steps = math.ceil(max(sum(map(len, group.values())) for group in images.values()) / per_class)
    queues: dict[int, list[str]] = {label: [] for label in images}
    for _ in range(steps):
        batch = []
        for label, group in sorted(images.items()):
            while len(queues[label]) < per_class:
                queues[label] += [str(p) for p in rng.permutation(sorted(group))]
            drawn, queues[label] = queues[label][:per_class], queues[label][per_class:]
            batch += [int(rng.choice(group[patient])) for patient in drawn]
        yield np.array(batch)


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, S, S) in 0..1 -> the same shape, each image turned, moved, scaled and toned a little.

    Within what positioning and exposure do: +-10 degrees, +-6 % shift, 88-112 % size, gamma 0.7-1.4.
    Mirrored half the time: findings have no side here, while letters and the heart's side tell sources
    apart and should not be learnt. Never turned upside down, which no radiograph is.
    """
    count = images.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle, scale = uniform(-math.pi / 18, math.pi / 18), uniform(0.88, 1.12)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    first = torch.stack([cos * mirror, -sin, uniform(-0.12, 0.12)], dim=1)
    second = torch.stack([sin * mirror, cos, uniform(-0.12, 0.12)], dim=1)
    grid = functional.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid.to(images.device), align_corners=False)
    gamma = torch.exp(uniform(math.log(0.7), math.log(1.4))).to(images.device)
    toned = moved.clamp(1e-4, 1.0) ** gamma[:, None, None, None]
    noise = torch.randn(toned.shape, generator=generator) * uniform(0.0, 0.03)[:, None, None, None]
    return (toned + noise.to(images.device)).clamp(0.0, 1.0)
