"""What a training step sees: P groups x K images of different patients, and how they are varied."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# Groups in one batch; with more than these, each batch has others.
CLASSES = 8


def class_batches(
    findings: NDArray[np.int8],
    sources: NDArray[np.str_],
    patients: NDArray[np.str_],
    per_class: int,
    rng: np.random.Generator,
    sharers: int = 1,
) -> Iterator[NDArray[np.int64]]:
    """Batches of ``per_class`` images of each of up to ``CLASSES`` groups: images of one source that are in one class.

    Each group draws patients without repetition, then one image of each, so a batch rarely holds two images of one
    patient. Where there are more groups than fit, they are drawn by the square root of their size: a rare one is
    seen more often than its images alone would be, and not so often that it is learnt by heart. An epoch has as many
    places as there are images. ``sharers``: processes that each draw batches of their own from the same images.

    findings: (N, C), 1 where an image is in a class; sources, patients: (N,).
    """
    images: dict[tuple[str, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, label in zip(*np.nonzero(findings == 1), strict=True):
        images[str(sources[index]), int(label)][str(patients[index])].append(int(index))
    present = sorted(images)
    sizes = np.sqrt([sum(map(len, images[group].values())) for group in present])
    together = min(CLASSES, len(present))
    steps = math.ceil(int((findings == 1).any(axis=1).sum()) / together / per_class / sharers)
    queues: dict[tuple[str, int], list[str]] = {group: [] for group in present}
    for _ in range(steps):
        batch = []
        for number in sorted(rng.choice(len(present), together, replace=False, p=sizes / sizes.sum()).tolist()):
            group = present[number]
            while len(queues[group]) < per_class:
                queues[group] += [str(p) for p in rng.permutation(sorted(images[group]))]
            drawn, queues[group] = queues[group][:per_class], queues[group][per_class:]
            batch += [int(rng.choice(images[group][patient])) for patient in drawn]
        yield np.array(batch)


def plain_batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """``count`` images in random order, ``size`` at a time; an incomplete last batch is left out."""
    order = rng.permutation(count)
    yield from (order[start : start + size] for start in range(0, count - size + 1, size))


def augment(images: Tensor, generator: torch.Generator, mirror: bool = False) -> Tensor:
    """(B, 1, S, S) in 0..1 -> the same shape, each image turned, moved, scaled, blurred, toned and partly covered.

    About what positioning, detectors and exposure do: +-12 degrees, +-7 % shift, 80-125 % size, 10 % of aspect, gamma
    0.6-1.6, noise; half of the images lose a rectangle of a tenth to three tenths of each side, so that no single
    mark suffices. Mirrored half the time when ``mirror``, which then learns that sides do not matter. Never turned
    upside down, which no radiograph is.
    """
    count, side, device = images.shape[0], images.shape[-1], images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator, device=device) * (high - low) + low

    angle, scale = uniform(-math.pi / 15, math.pi / 15), torch.exp(uniform(math.log(0.8), math.log(1.25)))
    aspect = torch.exp(uniform(-0.1, 0.1))
    turned = torch.where(uniform(0, 1) < (0.5 if mirror else 0.0), -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    first = torch.stack([cos * turned * aspect, -sin, uniform(-0.15, 0.15)], dim=1)
    second = torch.stack([sin * turned, cos, uniform(-0.15, 0.15)], dim=1)
    grid = functional.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    # Half of the images at a lower resolution, as copies of copies are.
    coarse = functional.interpolate(moved, scale_factor=float(uniform(0.4, 0.9)[0]), mode="bilinear", antialias=True)
    coarse = functional.interpolate(coarse, (side, side), mode="bilinear")
    moved = torch.where((uniform(0, 1) < 0.5)[:, None, None, None], coarse, moved)
    gamma = torch.exp(uniform(math.log(0.6), math.log(1.6)))
    toned = moved.clamp(1e-4, 1.0) ** gamma[:, None, None, None]
    covered = torch.where(_rectangles(uniform, side, device)[:, None], toned.mean(dim=(2, 3), keepdim=True), toned)
    noise = torch.randn(images.shape, generator=generator, device=device) * uniform(0.0, 0.04)[:, None, None, None]
    varied = (covered + noise).clamp(0.0, 1.0)
    return varied.contiguous(memory_format=torch.channels_last)


def _rectangles(uniform: Callable[[float, float], Tensor], side: int, device: torch.device) -> Tensor:
    """(B, S, S) bool: where half of the images are covered."""
    places = torch.arange(side, device=device)

    def band(centre: Tensor, width: Tensor) -> Tensor:
        return (places[None] - centre[:, None]).abs() < width[:, None] / 2

    rows = band(uniform(0, side), uniform(0.1, 0.3) * side)
    columns = band(uniform(0, side), uniform(0.1, 0.3) * side)
    chosen = uniform(0, 1) < 0.5
    return rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
