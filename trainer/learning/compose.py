"""A network that began at somebody's encoder -> a model folder: that encoder's graph, followed by what was learnt.

The graph is extended, not exported anew: its input stays what the encoder's card says, and its operators are joined by
ones that mean the same in every opset from 8 on. Weights that were taught take the places of those that came.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix
from torch import Tensor

from cxrsearch import files
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ModelError
from cxrsearch.model_card import Pooling
from trainer.learning.embed import embed, embed_by_file
from trainer.learning.imported import AGREES, GraphTrunk, ImportedNetwork

# Before the names of the encoder's own values, so that ours are not among them.
_THEIRS = "encoder."
_EPSILON = 1e-24  # of a squared length
# Images on which the file is compared with the network.
_COMPARED = 8


def compose(network: ImportedNetwork, folder: Path, card: dict[str, Any], pixels: NDArray[np.uint8]) -> None:
    """Write the model folder. card: its own words; what it takes and gives joins them. pixels: (N, S, S), of which some
    are used to see that the file gives what the network does. Raises ModelError where it does not."""
    folder.mkdir(parents=True, exist_ok=True)
    network = network.float().eval().cpu()
    model = onnx.load_model(network.folder / "encoder.onnx", load_external_data=False)
    if isinstance(network.trunk, GraphTrunk):
        _put_back(model, network.trunk.graph.learnt())
    _extend(model, network)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    has_places = network.card.has_places
    described = {
        "format": 2,
        **card,
        "input": network.card.input.as_json(),
        "outputs": {"embedding": "embedding", **{one: one if has_places else None for one in ("places", "attention")}},
        "pooling": str(Pooling.NONE),
        "dimensions": network.architecture.dimensions,
        "sha256": {"encoder.onnx": hashlib.sha256(content).hexdigest()},
    }
    files.write(folder / "encoder.onnx", content)
    files.write(folder / "model.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    compared = pixels[:_COMPARED]
    agreement = float((embed(network, compared) * embed_by_file(Encoder(folder), compared)).sum(axis=1).min())
    if not agreement >= AGREES:
        raise ModelError(f"{folder}: what was written is not what was learnt (cosine {agreement:.5f})")


def _put_back(model: onnx.ModelProto, learnt: dict[str, NDArray[np.float32]]) -> None:
    """Each learnt weight in the place of the one that came, stored in the same type."""

    def stored(name: str, before: onnx.TensorProto) -> onnx.TensorProto:
        return numpy_helper.from_array(learnt[name].astype(numpy_helper.to_array(before).dtype), before.name)

    for tensor in model.graph.initializer:
        if tensor.name in learnt:
            tensor.CopyFrom(stored(tensor.name, tensor))
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in learnt:
            node.attribute[0].t.CopyFrom(stored(node.output[0], node.attribute[0].t))


class _Extension:
    """Nodes that are joined to a graph; every method gives the name of what it adds."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._count = 0

    def constant(self, values: NDArray[Any]) -> str:
        name = self._new()
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        made = name or self._new()
        self._graph.node.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made

    def convolved(self, values: str, weight: Tensor, bias: Tensor) -> str:
        """values: the name of (B, C, h, w); weight: (D, C)."""
        kernel = weight.numpy()[:, :, None, None]
        return self.node("Conv", values, self.constant(kernel), self.constant(bias.numpy()), kernel_shape=[1, 1])

    def length(self, values: str, channels: int) -> str:
        """(B, C, 1, 1) -> (B, 1, 1, 1)."""
        squared = self.node("Mul", values, values)
        total = self.convolved(squared, torch.ones(1, channels), torch.full((1,), _EPSILON))
        return self.node("Sqrt", total)

    def _new(self) -> str:
        self._count += 1
        return f"head.{self._count}"


def _extend(model: onnx.ModelProto, network: ImportedNetwork) -> None:
    """Join what the network does after its trunk, channel statistics folded into what follows them."""
    add_prefix(model, _THEIRS, inplace=True)
    graph, card, dimensions = model.graph, network.card, network.architecture.dimensions
    add = _Extension(graph)
    project, attend = _folded(network)
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    outputs: dict[str, list[Any]] = {"embedding": [dimensions]}
    if card.has_places:
        size = card.image_size
        with torch.inference_mode():
            height, width = network.features(torch.rand(1, 1, size, size)).shape[2:]
        local = f"{_THEIRS}places"
        logits = add.convolved(local, *attend)
        even = add.node("Softmax", add.node("Flatten", logits, axis=1), axis=1)
        attention = add.node("Reshape", even, add.node("Shape", logits))
        weighted = add.node("Mul", add.convolved(local, *project), attention)
        places = add.constant(np.array(height * width, dtype=np.float32))
        total = add.node("Mul", add.node("GlobalAveragePool", weighted), places)
        length = add.length(total, dimensions)
        add.node("Div", weighted, length, name="places")
        add.node("Reshape", even, add.constant(np.array([-1, height, width])), name="attention")
        outputs |= {"places": [dimensions, height, width], "attention": [height, width]}
    else:
        total = add.convolved(_one_place(add, f"{_THEIRS}{card.output}", network), *project)
        length = add.length(total, dimensions)
    add.node("Flatten", add.node("Div", total, length), name="embedding", axis=1)
    del graph.output[:]
    first = batch.dim_value or "batch"
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [first, *shape])
                        for name, shape in outputs.items())  # fmt: skip


def _one_place(add: _Extension, output: str, network: ImportedNetwork) -> str:
    """The encoder's embedding, of unit length: (B, C, 1, 1)."""
    channels = network.normalise.num_features
    match network.card.pooling:
        case Pooling.MEAN_PLACES:
            output = add.node("GlobalAveragePool", output)
        case Pooling.FIRST_TOKEN:
            output = add.node("Gather", output, add.constant(np.array(0)), axis=1)
        case Pooling.MEAN_TOKENS:
            output = add.node("GlobalAveragePool", add.node("Transpose", output, perm=[0, 2, 1]))
    found = add.node("Reshape", output, add.constant(np.array([-1, channels, 1, 1])))
    return add.node("Div", found, add.length(found, channels))


def _folded(network: ImportedNetwork) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Weight (D, C) and bias (D,) of the projection, and (1, C) and (1,) of the attention, of features as they come."""
    own, attend = network.normalise, network.attend
    mean, variance = own.running_mean, own.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        scale = own.weight / torch.sqrt(variance + own.eps)
        shift = own.bias - mean * scale
        project = network.project.weight[:, :, 0, 0]
        # Without attention every place counts alike.
        weight = torch.zeros(1, len(scale)) if attend is None else attend.weight[:, :, 0, 0]
        bias = torch.zeros(1) if attend is None or attend.bias is None else attend.bias
        return (project * scale, project @ shift), (weight * scale, weight @ shift + bias)
