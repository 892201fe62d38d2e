"""An ONNX graph as a torch module that can learn.

Whatever library an encoder came from, its model folder holds an ONNX graph and nothing else. The learnt weights go back
into that graph by name (compose.py), so nothing is exported twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from cxrsearch.errors import InputError
from trainer.learning.onnx_operators import OPERATORS, Attributes


@dataclass(frozen=True)
class _Node:
    """last: the values that no later node wants."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes
    last: tuple[str, ...]


class OnnxNetwork(nn.Module):
    """(B, channels, S, S) float32, as the graph takes it -> its output ``output``.

    names: of each weight that learns, by its name in the graph, the name of the parameter, in the order an image meets
    them.
    """

    def __init__(self, model: onnx.ModelProto, output: str) -> None:
        """Raises InputError for an operator that cannot be learnt through."""
        super().__init__()
        graph = model.graph
        self._output = output
        (opset,) = (one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        (self._given,) = (one.name for one in graph.input if one.name not in constants)
        self._nodes = _planned(_needed(graph.node, output), output, opset, constants)
        unknown = sorted({node.operator for node in self._nodes} - OPERATORS.keys())
        if unknown:
            raise InputError(f"its operator {unknown[0]} cannot be learnt through")
        # Statistics of channels stay what they came as.
        statistics = {name for node in self._nodes if node.operator == "BatchNormalization" for name in node.inputs[3:]}
        self.names: dict[str, str] = {}
        self._numbers: dict[str, str] = {}
        self._whole: dict[str, Tensor] = {}  # shapes and axes, which stay where Python is
        for name in dict.fromkeys(name for node in self._nodes for name in node.inputs if name in constants):
            array = constants[name]
            if array.dtype.kind != "f":
                self._whole[name] = torch.from_numpy(array.copy())
            elif array.size > 1 and name not in statistics:
                self.names[name] = f"weight_{len(self.names)}"
                self.register_parameter(self.names[name], nn.Parameter(torch.from_numpy(array.astype(np.float32))))
            else:
                self._numbers[name] = f"number_{len(self._numbers)}"
                number = torch.from_numpy(array.astype(np.float32))
                self.register_buffer(self._numbers[name], number, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Any] = {self._given: images, "": None, **self._whole}
        values |= {name: getattr(self, own) for name, own in (self.names | self._numbers).items()}
        for node in self._nodes:
            made = OPERATORS[node.operator]([values[name] for name in node.inputs], node.attributes)
            values |= zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False)
            for name in node.last:
                del values[name]
        found: Tensor = values[self._output]
        return found

    def learnt(self) -> dict[str, NDArray[np.float32]]:
        """The weights, by their names in the graph."""
        return {name: getattr(self, own).detach().cpu().numpy() for name, own in self.names.items()}


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def _planned(
    nodes: Sequence[onnx.NodeProto], output: str, opset: int, constants: dict[str, NDArray[Any]]
) -> list[_Node]:
    """The nodes to run; those that are constants join ``constants``."""
    found: list[_Node] = []
    seen = {output, ""}
    for node in reversed(nodes):
        attributes = {one.name: _attribute(one) for one in node.attribute}
        if node.op_type == "Constant":
            (constants[node.output[0]],) = (np.asarray(value) for value in attributes.values())
            continue
        last = tuple(name for name in dict.fromkeys(node.input) if name not in seen)
        seen |= set(node.input)
        found.append(_Node(node.op_type, tuple(node.input), tuple(node.output), attributes | {"opset": opset}, last))
    return found[::-1]


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value
