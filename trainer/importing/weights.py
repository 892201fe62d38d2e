"""Weights in files of other people, read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cxrsearch.errors import InputError
from trainer.importing.source import NOT_SAFE
from trainer.learning.pretrained import PACKAGE, load_package

# Keys under which checkpoints of other programs have the weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict")


def load_weights(network: nn.Module, given: str) -> None:
    """Load a file of weights (.safetensors, .pt, .pth, .bin), or those that an installed package carries.

    Every weight of the network has to be there; what else the file has (a classifier) is left. Raises InputError.
    """
    if given.startswith(PACKAGE):
        try:
            load_package(network, given.removeprefix(PACKAGE))
        except (ValueError, metadata.PackageNotFoundError) as error:
            raise InputError(f"--weights {given}: cannot be used ({error})") from None
        return
    found, own = read_tensors(Path(given)), network.state_dict()
    for prefix in ("", "module."):
        named = {key.removeprefix(prefix): value for key, value in found.items()}
        missing = [key for key in own if key not in named and not key.endswith("num_batches_tracked")]
        if not missing:
            break
    wrong = [key for key, value in own.items() if key in named and named[key].shape != value.shape]
    if missing or wrong:
        what = f"has no {missing[0]!r}" if missing else f"{wrong[0]!r} is of another shape"
        raise InputError(f"--weights {given}: not of this network ({what}; {len(missing) + len(wrong)} such)")
    network.load_state_dict({key: named[key] for key in own if key in named}, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises InputError."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else unpickled(path)
    except pickle.UnpicklingError:  # torch's own words say how to run what is in it
        raise InputError(f"--weights {path}: {NOT_SAFE}") from None
    except Exception as error:  # safetensors and torch raise whatever a damaged file makes them
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--weights {path}: not weights that can be read safely ({reason})") from None
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"--weights {path}: holds no tensors by name")
    return tensors


def unpickled(path: Path, classes: tuple[type, ...] = ()) -> Any:
    """What torch saved, of tensors, containers and ``classes`` alone; anything else in the file is an error."""
    with torch.serialization.safe_globals(list(classes)):
        return torch.load(path, map_location="cpu", weights_only=True)
