"""open_clip trunk + spatial attention + projection: an embedding that is a sum over places.

After Zhong et al., Medical Image Analysis 2021 (arXiv 2012.03663): a CNN with spatial attention whose
embedding is learned by multi-similarity loss. Its layer sizes could not be read; these are our own.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cxrsearch.errors import InputError
from cxrsearch.text import nearest
from trainer.learning.pretrained import PACKAGE, load_package

# Small towers of our own, in open_clip's own form, for learning from random weights.
TOWERS = Path(__file__).parent / "towers"


class NetworkOutput(NamedTuple):
    """embedding (B, D) of unit length; places (B, D, h, w), whose sum over (h, w) is the embedding;
    attention (B, h, w), summing to one over the places."""

    embedding: Tensor
    places: Tensor
    attention: Tensor


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build a network again from its weights.

    tower: an open_clip model's name; image_size in pixels; dimensions D of the embedding; attention: False where
    every place counts alike.
    """

    tower: str
    image_size: int
    dimensions: int
    attention: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Network(nn.Module):
    """(B, 1, S, S) float32 in 0..1, canonical pixels -> :class:`NetworkOutput`.

    Each image is standardised by its own mean and deviation inside the network, so that exposure and
    contrast cannot tell hospitals apart and no preprocessing constant can be forgotten.
    """

    def __init__(self, architecture: Architecture, pretrained: str | None = None) -> None:
        """``pretrained``: what the trunk's weights are (trainer/config.py). Raises InputError."""
        super().__init__()
        self.architecture = architecture
        self._keeps_statistics = pretrained is not None
        self.trunk = _trunk(architecture, pretrained)
        self._add_head(self._keep_what_is_used())

    def _add_head(self, channels: int) -> None:
        """channels: C of the features."""
        self.normalise = nn.BatchNorm2d(channels)
        self.project = nn.Conv2d(channels, self.architecture.dimensions, kernel_size=1, bias=False)
        self.attend = nn.Conv2d(channels, 1, kernel_size=1) if self.architecture.attention else None
        if self.attend is not None:
            nn.init.zeros_(self.attend.weight)  # attention begins even over the image
            nn.init.zeros_(self.attend.bias)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> Network:
        """A pretrained trunk keeps the channel statistics it came with: a batch here is too small and too alike."""
        super().train(mode)
        if self._keeps_statistics:
            self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> NetworkOutput:
        local = self.normalise(self.features(images))
        weights = self.attend(local) if self.attend is not None else torch.zeros_like(local[:, :1])
        attention = weights.flatten(2).softmax(dim=-1).view(local.shape[0], 1, *local.shape[2:])
        places = self.project(local) * attention
        total = places.sum(dim=(2, 3))
        length = total.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return NetworkOutput(total / length, places / length[:, :, None, None], attention[:, 0])

    def freeze(self, part: float) -> None:
        """Leave the first ``part`` (0..1) of the trunk's weights, in the order an image meets them, as they are."""
        weights = list(self.trunk.parameters())
        for weight in weights[: round(len(weights) * part)]:
            weight.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in 0..1 -> (B, C, h, w), the trunk's last two scales on the grid of the finer one."""
        finer, coarser = self._scales(images)
        if coarser.shape[2:] != finer.shape[2:]:
            coarser = functional.interpolate(coarser, finer.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([finer, coarser], dim=1)

    def last_features(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) in 0..1 -> (B, C, h, w), the trunk's last scale alone."""
        return self._scales(images)[1]

    def _scales(self, images: Tensor) -> list[Tensor]:
        mean = images.mean(dim=(2, 3), keepdim=True)
        deviation = (images - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        images = (images - mean) / (deviation + 1e-3)
        # gray to the three channels that open_clip trunks (and their pretrained weights) expect
        trunk: Any = self.trunk
        found = trunk.forward_intermediates(images.expand(-1, 3, -1, -1), indices=2, intermediates_only=True)
        scales: list[Tensor] = found["image_intermediates"]
        return scales

    def _keep_what_is_used(self) -> int:
        """Drop the trunk's weights that its feature map does not depend on (pooling, the text side's projection);
        give the feature map's number of channels."""
        size = self.architecture.image_size
        self.trunk.eval()  # pretrained statistics stay as they are
        features = self.features(torch.rand(1, 1, size, size))
        torch.autograd.backward(features.sum())
        self.trunk.train()
        for module in list(self.trunk.modules()):
            for name, child in list(module.named_children()):
                weights = list(child.parameters())
                if weights and all(weight.grad is None for weight in weights):
                    setattr(module, name, None)
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.grad is None:
                    setattr(module, name, None)
        self.trunk.zero_grad(set_to_none=True)
        return int(features.shape[1])


def pictures(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, S, S) uint8 -> (B, 1, S, S) float32 in 0..1, on the device."""
    one = torch.from_numpy(pixels).to(device).float().div_(255).unsqueeze(1)
    return one.contiguous(memory_format=torch.channels_last)


def _trunk(architecture: Architecture, pretrained: str | None) -> nn.Module:
    open_clip.add_model_config(TOWERS)
    name, known = architecture.tower, open_clip.list_models()
    if name not in known:
        own = ", ".join(sorted(path.stem for path in TOWERS.glob("*.json")))
        raise InputError(f"network.tower: open_clip has no {name!r}.{nearest(name, known)} Our own: {own}.")
    package = pretrained is not None and pretrained.startswith(PACKAGE)
    downloads = pretrained is not None and not package
    if downloads and not Path(str(pretrained)).is_file() and not open_clip.get_pretrained_cfg(name, str(pretrained)):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise InputError(
            f"network.tower {name}: pretrained {pretrained!r} cannot be used: it is no file, and no tag of this tower"
            f" (its tags: {tags})"
        )
    logging.getLogger().addFilter(_is_news)
    try:
        model = open_clip.create_model(
            name,
            pretrained if downloads else None,
            force_image_size=architecture.image_size,
            require_pretrained=downloads,
            load_weights=downloads,
        )
        if pretrained is not None and package:
            load_package(getattr(model.visual, "trunk", model.visual), pretrained.removeprefix(PACKAGE))
    except (pickle.UnpicklingError, EOFError):
        raise InputError(
            f"network.tower {name}: pretrained {pretrained!r} cannot be used: no file of weights"
        ) from None
    except Exception as error:  # open_clip and the hubs it asks raise whatever went wrong
        what = f"pretrained {pretrained!r}" if pretrained else f"image_size {architecture.image_size}"
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"network.tower {name}: {what} cannot be used ({type(error).__name__}: {reason})") from None
    finally:
        logging.getLogger().removeFilter(_is_news)
    visual: nn.Module = model.visual
    if not hasattr(visual, "forward_intermediates"):
        raise InputError(f"network.tower: {name} gives no feature map (no forward_intermediates); choose another")
    return visual


def _is_news(record: logging.LogRecord) -> bool:
    """False where open_clip logs what it raises as well, or that nothing was loaded, which here is a choice."""
    return record.levelno < logging.ERROR and "No pretrained weights loaded" not in record.getMessage()
