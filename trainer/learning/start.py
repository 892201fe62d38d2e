"""Where learning begins: the untaught layers keep what a pretrained trunk tells apart."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.learning.network import Network, pictures

# Radiographs whose features say where learning begins.
_SAMPLE = 1024


def begin_at_principal_components(network: Network, pixels: NDArray[np.uint8], seed: int) -> None:
    """Have the untaught layers keep what the trunk tells apart: channels are standardised over these radiographs, and
    the projection is onto the principal components of their mean over the places.

    pixels: (N, S, S). Fewer images than dimensions leave the projection as it was drawn.
    """
    chosen = np.random.default_rng(seed).permutation(len(pixels))[:_SAMPLE]
    network.eval()
    device = network.project.weight.device
    total, squares, means, places = torch.zeros(1), torch.zeros(1), [], 0
    with torch.inference_mode():
        for start in range(0, len(chosen), 32):
            local = network.features(pictures(pixels[np.sort(chosen[start : start + 32])], device)).cpu()
            total = total + local.sum(dim=(0, 2, 3))
            squares = squares + local.square().sum(dim=(0, 2, 3))
            places += local.shape[0] * local.shape[2] * local.shape[3]
            means.append(local.mean(dim=(2, 3)))
        mean = total / places
        variance = (squares / places - mean.square()).clamp_min(1e-6)
        network.normalise.running_mean.copy_(mean)  # type: ignore[union-attr]
        network.normalise.running_var.copy_(variance)  # type: ignore[union-attr]
        pooled = (torch.cat(means) - mean) / variance.sqrt()
        directions = torch.linalg.svd(pooled - pooled.mean(dim=0), full_matrices=False).Vh
        dimensions = network.architecture.dimensions
        if min(len(pooled) - 1, len(directions)) >= dimensions:
            network.project.weight.copy_(directions[:dimensions, :, None, None])
