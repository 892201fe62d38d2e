"""Where learning begins: the untaught layers keep what a pretrained trunk tells apart, findings before all else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from torch import Tensor

from trainer.learning.embed import pooled_features
from trainer.learning.network import Network

Floats = NDArray[np.float64]

# Images of one source with, and without, a finding, below which that source says nothing of it.
FEWEST = 5
# Our own choice, by folds of the NIH patients that cxr-1 learns from; 1, 3 and 10, and 0.5 and 1, were tried by hand.
PENALTY = 10.0
FINDINGS_PART = 0.5


def begin_at_findings(
    network: Network, pixels: NDArray[np.uint8], findings: NDArray[np.int8], sources: NDArray[np.str_]
) -> None:
    """Have the untaught layers keep what the trunk tells apart.

    pixels: (N, S, S); findings: (N, F), 1 present, 0 absent, -1 not known; sources: (N,), the hospital or collection
    that each image is from.

    Channels are standardised over these images. The projection is onto the directions along which ridge regression sees
    each finding (Hoerl and Kennard, Technometrics 1970), then onto the principal components of the channels' means over
    the places. Together the findings spread images ``FINDINGS_PART`` as far as the components do. Fewer images than
    dimensions leave the projection as it was drawn.
    """
    pooled = pooled_features(network.eval().features, pixels).astype(np.float64)
    deviation = pooled.std(axis=0) + 1e-6
    network.normalise.running_mean.copy_(torch.from_numpy(pooled.mean(axis=0)))  # type: ignore[union-attr]
    network.normalise.running_var.copy_(torch.from_numpy(deviation**2))  # type: ignore[union-attr]
    dimensions = network.architecture.dimensions
    if min(len(pooled) - 1, pooled.shape[1]) >= dimensions:
        found = _directions((pooled - pooled.mean(axis=0)) / deviation, findings, sources, dimensions)
        with torch.inference_mode():
            network.project.weight.copy_(torch.from_numpy(found)[:, :, None, None])


def go_back(network: Network, start: Mapping[str, Tensor], part: float) -> None:
    """Take a network's weights ``part`` (0..1) of the way to those that its learning began with.

    start: their state_dict. After Wortsman et al., Robust fine-tuning of zero-shot models (CVPR 2022).
    """
    learnt = network.state_dict()
    network.load_state_dict(
        {name: one.lerp(start[name], part) if one.is_floating_point() else one for name, one in learnt.items()}
    )


def _directions(features: Floats, findings: NDArray[np.int8], sources: NDArray[np.str_], dimensions: int) -> Floats:
    """(N, C) standardised features -> (dimensions, C), the findings' directions before the principal components."""
    seen = [_seen_along(features, finding, sources) for finding in findings.T]
    along = [one / max(float((features @ one).std()), 1e-12) for one in seen if one is not None]
    components = np.linalg.svd(features, full_matrices=False)[2][: max(dimensions - len(along), 0)]
    spread = float((features @ components.T).var(axis=0).sum()) if len(components) else 1.0
    strength = FINDINGS_PART * np.sqrt(spread / max(len(along), 1))
    return np.stack([*(one * strength for one in along), *components])[:dimensions]


def _seen_along(features: Floats, finding: NDArray[np.int8], sources: NDArray[np.str_]) -> Floats | None:
    """(C,) along which the finding is seen, or None where no source knows enough of it.

    Images with and without it count alike in each source, and each source is compared with itself alone: else it would
    be enough to tell hospitals apart.
    """
    inputs, targets, weights = [], [], []
    for source in sorted(set(sources.tolist())):
        has, lacks = (np.flatnonzero((sources == source) & (finding == value)) for value in (1, 0))
        if min(len(has), len(lacks)) < FEWEST:
            continue
        middle = (features[has].mean(axis=0) + features[lacks].mean(axis=0)) / 2
        inputs.append(features[np.concatenate([has, lacks])] - middle)
        targets.append(np.repeat([0.5, -0.5], [len(has), len(lacks)]))
        size = (len(has) + len(lacks)) / 2
        weights.append(np.repeat([size / len(has), size / len(lacks)], [len(has), len(lacks)]))
    if not inputs:
        return None
    known = np.concatenate(targets)
    ridge = Ridge(alpha=PENALTY * len(known), fit_intercept=False)
    along: Floats = ridge.fit(np.concatenate(inputs), known, sample_weight=np.concatenate(weights)).coef_
    return along
