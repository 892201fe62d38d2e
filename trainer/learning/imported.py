"""A network that begins at somebody's encoder, as a model folder holds it: on top of it, what is always learnt here.

Left whole as it came, the encoder runs by its file, whatever it is made of. Taught, its graph is run by torch
(onnx_network.py), if that gives what ONNX Runtime gives. What it is shown is made as its card says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError, ModelError
from cxrsearch.model_card import ModelCard, Pooling
from trainer.config import Config, imported_folder
from trainer.learning.network import Architecture, Network
from trainer.learning.onnx_network import OnnxNetwork

# The cosine of what is taught, before it is, with what the encoder's file gives.
AGREES = 0.9999


class FileTrunk(nn.Module):
    """(B, 1, S, S) float32 in 0..1 -> (B, C, h, w) by the encoder's file: its places, or its embedding as one place."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        pictures = list(images[:, 0].float().cpu().numpy())
        if self.encoder.card.has_places:
            found = self.encoder.encode(pictures).places
            if not np.isfinite(found).all():
                raise ModelError(f"model {self.encoder.card.name}: gives places that are not numbers")
        else:
            found = self.encoder.embed_prepared(pictures)[:, :, None, None]
        return torch.from_numpy(found).to(images.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> FileTrunk:
        return self  # it does not change, and a session cannot be copied


class GraphTrunk(nn.Module):
    """As :class:`FileTrunk`, by torch, so that it can be taught. graph: the encoder's."""

    def __init__(self, card: ModelCard, model: onnx.ModelProto) -> None:
        super().__init__()
        self.card = card
        self.graph = OnnxNetwork(model, "places" if card.has_places else card.output)

    def forward(self, images: Tensor) -> Tensor:
        taken = self.card.input
        grey = images.expand(-1, taken.channels, -1, -1) * (taken.high - taken.low) + taken.low
        mean, deviation = (images.new_tensor(one)[None, :, None, None] for one in (taken.mean, taken.deviation))
        found: Tensor = self.graph((grey - mean) / deviation)
        if self.card.has_places:
            return found
        match self.card.pooling:
            case Pooling.MEAN_PLACES:
                found = found.mean(dim=(2, 3))
            case Pooling.FIRST_TOKEN:
                found = found[:, 0]
            case Pooling.MEAN_TOKENS:
                found = found.mean(dim=1)
        return functional.normalize(found.float(), dim=1)[:, :, None, None]


class ImportedNetwork(Network):
    """(B, 1, S, S) float32 in 0..1, squares as the encoder's card says -> :class:`NetworkOutput`.

    folder, card: of the encoder that it begins at. Attention is learnt only where that gives places.
    """

    def __init__(self, folder: Path, dimensions: int, attention: bool, taught: bool) -> None:
        """taught: whether any of the encoder is to change. Raises ModelError, and InputError where it cannot."""
        nn.Module.__init__(self)
        encoder = Encoder(folder)
        self.folder, self.card = folder, encoder.card
        size = self.card.image_size
        self.architecture = Architecture(self.card.name, size, dimensions, attention and self.card.has_places)
        self._keeps_statistics = True
        self.trunk = _taught(folder, encoder) if taught else FileTrunk(encoder)
        with torch.inference_mode():
            features = self.trunk(torch.rand(1, 1, size, size))
        self._add_head(features.shape[1])

    def features(self, images: Tensor) -> Tensor:
        found: Tensor = self.trunk(images)
        return found

    def last_features(self, images: Tensor) -> Tensor:
        return self.features(images)


def new_network(config: Config, pretrained: bool = True) -> Network:
    """The network that a configuration begins with. pretrained: False where other weights will be loaded into it.

    Raises InputError, ModelError.
    """
    given, folder = config.network, imported_folder(config)
    if folder is not None:
        return ImportedNetwork(folder, given.dimensions, given.attention, taught=config.learning.frozen < 1)
    architecture = Architecture(given.tower, given.image_size, given.dimensions, given.attention)
    return Network(architecture, given.pretrained if pretrained else None)


def _taught(folder: Path, encoder: Encoder) -> GraphTrunk:
    size = encoder.card.image_size
    coarse = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = functional.interpolate(coarse, (size, size), mode="bilinear")
    try:
        trunk = GraphTrunk(encoder.card, onnx.load_model(folder / "encoder.onnx", load_external_data=False))
        with torch.inference_mode():
            found, expected = (one(pictures).flatten(1) for one in (trunk, FileTrunk(encoder)))
        agreement = float(functional.cosine_similarity(found, expected).min())
        why = "" if agreement >= AGREES else f"torch gives another embedding than ONNX Runtime, cosine {agreement:.4f}"
        why = why or ("" if trunk.graph.names else "it has no weights")
    except ModelError:
        raise
    except Exception as error:  # of a graph that is made of something else, torch raises whatever goes wrong
        why = " ".join(str(error).split())[:160] or type(error).__name__
    if why:
        what = f"network.pretrained: {encoder.card.name} cannot be taught ({why})"
        raise InputError(f"{what}; leave it whole as it came: learning.frozen = 1")
    return trunk
