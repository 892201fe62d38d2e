"""A DenseNet of torchxrayvision: its pooled features.

Its own loader unpickles whole files, which can run anything; here a file may hold these layers and tensors alone.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torchxrayvision
from torch import Tensor, nn
from torchxrayvision.models import DenseNet, _DenseBlock, _DenseLayer, _Transition, get_weights, model_urls

from cxrsearch.errors import InputError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat
from cxrsearch.text import nearest
from trainer.importing.source import NOT_SAFE, LoadedEncoder
from trainer.importing.weights import load_weights, unpickled

# torchxrayvision scales black and white so (its datasets.normalize).
_LOW, _HIGH = -1024.0, 1024.0
_SIZE = 224
_LAYERS = (
    DenseNet,
    _DenseBlock,
    _DenseLayer,
    _Transition,
    nn.Sequential,
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Linear,
    set,
)


class _Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.features: nn.Module = model.features  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.features(images).relu().mean(dim=(2, 3))
        return made


def load_xray_vision(name: str, weights: str | None) -> LoadedEncoder:
    """A name of its DenseNets, or that with a file of weights. Raises InputError."""
    known = [one for one in model_urls if one.startswith("densenet")]
    if name not in known:
        raise InputError(
            f"xrv:{name}: no DenseNet of torchxrayvision.{nearest(name, known)} It has: {', '.join(known)}"
        )
    path = weights or get_weights(name)
    model = _whole(Path(path)) if Path(path).suffix in (".pt", ".pth") else None
    if model is None:
        model = DenseNet()
        load_weights(_Features(model), path)
    taken = InputFormat(1, _SIZE, _LOW, _HIGH, (0.0,), (1.0,), Resizing.CROP)
    backbone = f"torchxrayvision {torchxrayvision.__version__} {name}"
    return LoadedEncoder(_Features(model).eval(), taken, backbone)


def _whole(path: Path) -> nn.Module | None:
    """A whole network that was saved; None where the file holds tensors by name. Raises InputError."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    try:
        found = unpickled(path, _LAYERS)
    except pickle.UnpicklingError:
        raise InputError(f"--weights {path}: {NOT_SAFE}") from None
    except Exception as error:  # torch raises whatever a file that holds more makes it
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--weights {path}: not weights that can be read safely ({reason})") from None
    return found if isinstance(found, DenseNet) else None
