"""open_clip trunk + spatial attention + projection: an embedding that is a sum over places.

After Zhong et al., Medical Image Analysis 2021 (arXiv 2012.03663): a CNN with spatial attention whose
embedding is learned by multi-similarity loss. Its layer sizes could not be read; these are our own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn


class Encoded(NamedTuple):
    """embedding (B, D) of unit length; places (B, D, h, w), whose sum over (h, w) is the embedding;
    attention (B, h, w), summing to one over the places."""

    embedding: Tensor
    places: Tensor
    attention: Tensor


@dataclass(frozen=True)
class Architecture:
    """What has to be known to build a network again from its weights.

    image_size in pixels; dimensions D of the embedding; the rest are open_clip's ModifiedResNet arguments.
    """

    image_size: int = 160
    dimensions: int = 128
    layers: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    width: int = 32

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Network(nn.Module):
    """(B, 1, S, S) float32 in 0..1, canonical pixels -> :class:`Encoded`.

    Each image is standardised by its own mean and deviation inside the network, so that exposure and
    contrast cannot tell hospitals apart and no preprocessing constant can be forgotten.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.trunk = ModifiedResNet(
            layers=architecture.layers,
            output_dim=architecture.dimensions,
            heads=8,
            image_size=architecture.image_size,
            width=architecture.width,
        )
        self.trunk.attnpool = None  # open_clip's own pooling is replaced by the head below
        channels = architecture.width * 32
        self.normalise = nn.BatchNorm2d(channels)
        self.project = nn.Conv2d(channels, architecture.dimensions, kernel_size=1, bias=False)
        self.attend = nn.Conv2d(channels, 1, kernel_size=1)
        nn.init.zeros_(self.attend.weight)  # attention begins even over the image
        nn.init.zeros_(self.attend.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Encoded:
        mean = images.mean(dim=(2, 3), keepdim=True)
        deviation = (images - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        images = (images - mean) / (deviation + 1e-3)
        # gray to the three channels that open_clip trunks (and their pretrained weights) expect
        features = self.trunk.forward_intermediates(images.expand(-1, 3, -1, -1), indices=1, intermediates_only=True)
        local = self.normalise(features["image_intermediates"][-1])
        attention = self.attend(local).flatten(2).softmax(dim=-1).view(local.shape[0], 1, *local.shape[2:])
        places = self.project(local) * attention
        total = places.sum(dim=(2, 3))
        length = total.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return Encoded(total / length, places / length[:, :, None, None], attention[:, 0])
