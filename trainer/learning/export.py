"""A trained network -> a model folder: ``model.json``, ``encoder.onnx``, ``weights.safetensors``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save
from torch import nn

from cxrsearch import files
from trainer.learning.network import Architecture, Network

# Initializers below this stay float32: they are biases and shapes, not worth a Cast node.
_HALF_FROM_ELEMENTS = 4096


def export(network: Network, folder: Path, card: dict[str, Any]) -> None:
    """Write the model folder. ``card`` is joined by what only the export knows (sizes, checksums).

    Weights are rounded to float16 and stored so in both files (a model that ships stays small); they are
    computed with in float32, so the two files give the same embeddings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = network.float().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.numel() >= _HALF_FROM_ELEMENTS:
                tensor.copy_(tensor.half().float())
    weights = {
        name: (t.half() if t.is_floating_point() and t.numel() >= _HALF_FROM_ELEMENTS else t).contiguous()
        for name, t in network.state_dict().items()
    }
    files.write(folder / "weights.safetensors", save(weights))
    size = network.architecture.image_size
    outputs = ["embedding", "places", "attention"]
    export_onnx(network, torch.rand(2, 1, size, size), outputs, folder / "encoder.onnx")
    described = {
        "format": 1,
        **card,
        "architecture": network.architecture.as_dict(),
        "image_size": network.architecture.image_size,
        "dimensions": network.architecture.dimensions,
        "sha256": {name: _sha256(folder / name) for name in ("encoder.onnx", "weights.safetensors")},
    }
    files.write(folder / "model.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def load_network(folder: Path) -> Network:
    """The torch network of a model folder, in eval mode."""
    card = json.loads((folder / "model.json").read_text("utf-8"))
    network = Network(Architecture(**card["architecture"]))
    network.load_state_dict(
        {
            name: t.float() if t.is_floating_point() else t
            for name, t in load_file(folder / "weights.safetensors").items()
        }
    )
    return network.eval()


def export_onnx(
    network: nn.Module, images: torch.Tensor, outputs: Sequence[str], path: Path, halves: bool = True
) -> None:
    """A network as an ONNX file that takes any number of inputs. images: two of those that it takes, or one, and it
    will take one at a time.

    halves: store large weights as float16; they are computed with in float32.
    """
    program = torch.onnx.export(
        network,
        (images,),
        input_names=["images"],
        output_names=outputs,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},) if len(images) > 1 else None,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    if halves:
        _store_halves(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _store_halves(model: onnx.ModelProto) -> None:
    """Large float32 initializers become float16 behind a Cast, which ONNX Runtime folds away on loading."""
    casts = []
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if initializer.data_type != TensorProto.FLOAT or array.size < _HALF_FROM_ELEMENTS:
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(array.astype("float16"), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
