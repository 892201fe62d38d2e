"""The operators of ONNX that image encoders are made of, as functions of torch: inputs and attributes -> output.

Of each, what it means in any opset from 7 on; ``opset`` is among the attributes. Whether a graph does here what it does
in ONNX Runtime is confirmed before anything is learnt (imported.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from cxrsearch.errors import InputError

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Any]

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,  # what was rounded to store it is computed with in full
    TensorProto.DOUBLE: torch.float32,
    TensorProto.INT32: torch.int64,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


def _ints(value: Any) -> list[int]:
    return [int(one) for one in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


def _get(inputs: Sequence[Any], number: int, attributes: Attributes, name: str) -> Any:
    """What newer operators take as an input and older ones as an attribute; None where it is not given."""
    if len(inputs) > number and inputs[number] is not None:
        return inputs[number]
    return attributes.get(name)


def _padded(
    images: Tensor, attributes: Attributes, kernel: Sequence[int], fill: float = 0.0
) -> tuple[Tensor, int | list[int]]:
    """The input of a convolution or a pooling with its padding, and what of it torch's own function is to add."""
    dims = len(kernel)
    pads, auto = _ints(attributes.get("pads", [0] * 2 * dims)), attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides = _ints(attributes.get("strides", [1] * dims))
        dilations = _ints(attributes.get("dilations", [1] * dims))
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sides = images.shape[2:]
        whole = [max(0, (-(-n // s) - 1) * s + span - n) for n, s, span in zip(sides, strides, spans, strict=True)]
        before = [one // 2 if auto == "SAME_UPPER" else one - one // 2 for one in whole]
        pads = before + [one - first for one, first in zip(whole, before, strict=True)]
    if pads[:dims] == pads[dims:] and fill == 0.0:
        return images, pads[:dims]
    order = [pads[axis + end] for axis in reversed(range(dims)) for end in (0, dims)]
    return functional.pad(images, order, value=fill), 0


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    images, weight, *bias = inputs
    images, padding = _padded(images, attributes, weight.shape[2:])
    function = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[weight.ndim]
    dims = weight.ndim - 2
    strides, dilations = (_ints(attributes.get(name, [1] * dims)) for name in ("strides", "dilations"))
    made: Tensor = function(
        images, weight, bias[0] if bias else None, strides, padding, dilations, attributes.get("group", 1)
    )
    return made


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel = _ints(attributes["kernel_shape"])
    images, _ = _padded(inputs[0], attributes, kernel, fill=-torch.inf)
    strides, dilations = (_ints(attributes.get(name, [1] * 2)) for name in ("strides", "dilations"))
    return functional.max_pool2d(images, kernel, strides, 0, dilations, bool(attributes.get("ceil_mode", 0)))


def _average_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel = _ints(attributes["kernel_shape"])
    images, padding = _padded(inputs[0], attributes, kernel)
    whole, strides = bool(attributes.get("count_include_pad", 0)), _ints(attributes.get("strides", [1] * 2))
    return functional.avg_pool2d(images, kernel, strides, padding, bool(attributes.get("ceil_mode", 0)), whole)


def _batch_norm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    images, scale, bias, mean, variance = inputs
    return functional.batch_norm(images, mean, variance, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _layer_norm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, scale, *bias = inputs
    axis = attributes.get("axis", -1)
    shape = list(values.shape[axis:])
    return functional.layer_norm(values, shape, scale, bias[0] if bias else None, attributes.get("epsilon", 1e-5))


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    first, second, *third = inputs
    first = first.T if attributes.get("transA", 0) else first
    second = second.T if attributes.get("transB", 0) else second
    made: Tensor = attributes.get("alpha", 1.0) * (first @ second)
    return made + attributes.get("beta", 1.0) * third[0] if third else made


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, shape = inputs[0], _ints(inputs[1])
    if not attributes.get("allowzero", 0):
        shape = [values.shape[axis] if side == 0 else side for axis, side in enumerate(shape)]
    made: Tensor = values.reshape(shape)
    return made


def _flatten(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1)
    made: Tensor = inputs[0].reshape(int(np.prod(inputs[0].shape[:axis])), -1)
    return made


def _squeeze(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    axes = _get(inputs, 1, attributes, "axes")
    made: Tensor = inputs[0].squeeze() if axes is None else inputs[0].squeeze(_ints(axes))
    return made


def _unsqueeze(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, axes = inputs[0], _ints(_get(inputs, 1, attributes, "axes"))
    for axis in sorted(one % (values.ndim + len(axes)) for one in axes):
        values = values.unsqueeze(axis)
    made: Tensor = values
    return made


def _slice(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values = inputs[0]
    starts, ends = (_ints(_get(inputs, n, attributes, name)) for n, name in ((1, "starts"), (2, "ends")))
    axes, steps = _get(inputs, 3, attributes, "axes"), _get(inputs, 4, attributes, "steps")
    places = [slice(None)] * values.ndim
    for axis, start, end, step in zip(
        range(len(starts)) if axes is None else _ints(axes), starts, ends,
        [1] * len(starts) if steps is None else _ints(steps), strict=True,
    ):  # fmt: skip
        if step < 1:
            raise InputError("its operator Slice goes backwards, which cannot be learnt through")
        side = values.shape[axis]
        places[axis] = slice(max(start, -side), min(end, side), step)  # "to the end" is the largest number there is
    made: Tensor = values[tuple(places)]
    return made


def _split(inputs: Sequence[Any], attributes: Attributes) -> tuple[Tensor, ...]:
    values, axis = inputs[0], attributes.get("axis", 0)
    sizes = _get(inputs, 1, attributes, "split")
    if sizes is not None:
        return torch.split(values, _ints(sizes), axis)
    return torch.chunk(values, attributes["num_outputs"], axis)


def _softmax(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, opset = inputs[0], attributes["opset"]
    axis = attributes.get("axis", -1 if opset >= 13 else 1)
    if opset >= 13 or axis in (-1, values.ndim - 1):
        made: Tensor = values.softmax(axis)
        return made
    return _flatten([values], {"axis": axis}).softmax(1).reshape(values.shape)


def _clip(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    low, high = _get(inputs, 1, attributes, "min"), _get(inputs, 2, attributes, "max")
    made: Tensor = inputs[0].clamp(None if low is None else float(low), None if high is None else float(high))
    return made


def _gather(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, places, axis = inputs[0], inputs[1], attributes.get("axis", 0) % inputs[0].ndim
    places = torch.where(places < 0, places + values.shape[axis], places)
    found = values.index_select(axis, places.flatten().to(values.device))
    made: Tensor = found.reshape(*values.shape[:axis], *places.shape, *values.shape[axis + 1 :])
    return made


def _gather_nd(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    if attributes.get("batch_dims", 0):
        raise InputError("its operator GatherND gathers by batch, which cannot be learnt through")
    made: Tensor = inputs[0][tuple(inputs[1].to(inputs[0].device).unbind(-1))]
    return made


def _range(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.arange(*(one.item() for one in inputs), dtype=inputs[0].dtype)


def _pad(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, pads = inputs[0], _ints(_get(inputs, 1, attributes, "pads"))
    axes = _get(inputs, 3, attributes, "axes")
    whole = [(0, 0)] * values.ndim
    for number, axis in enumerate(range(values.ndim) if axes is None else _ints(axes)):
        whole[axis] = pads[number], pads[number + len(pads) // 2]
    mode = attributes.get("mode", "constant")
    fill = _get(inputs, 2, attributes, "value")
    order = [side for pair in reversed(whole) for side in pair]
    if mode == "constant":
        return functional.pad(values, order, value=0.0 if fill is None else float(fill))
    return functional.pad(values, order[:4], {"reflect": "reflect", "edge": "replicate"}[mode])


def _resize(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    values, sizes = inputs[0], inputs[3] if len(inputs) > 3 else None
    if sizes is None:
        sides = [int(side * float(one)) for side, one in zip(values.shape, inputs[2], strict=True)][2:]
    else:
        sides = _ints(sizes)[-2:]
    mode, aligned = (
        attributes.get("mode", "nearest"),
        attributes.get("coordinate_transformation_mode") == "align_corners",
    )
    if mode == "nearest":
        return functional.interpolate(values, sides, mode="nearest")
    kind = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    return functional.interpolate(values, sides, mode=kind, align_corners=aligned)


def _reduce(inputs: Sequence[Any], attributes: Attributes, function: Callable[..., Any]) -> Tensor:
    values, axes = inputs[0], _get(inputs, 1, attributes, "axes")
    every = list(range(values.ndim)) if axes is None or len(axes) == 0 else _ints(axes)
    made: Tensor = function(values, every, bool(attributes.get("keepdims", 1)))
    return made


def _expand(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    shape = np.broadcast_shapes(tuple(inputs[0].shape), tuple(_ints(inputs[1])))
    made: Tensor = inputs[0].expand(shape)
    return made


def _divide(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    whole = not inputs[0].is_floating_point()
    return torch.div(inputs[0], inputs[1], rounding_mode="trunc" if whole else None)


def _constant_of_shape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32)))
    return torch.full(_ints(inputs[0]), value.item(), dtype=torch.from_numpy(value).dtype)


def _hard_sigmoid(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    made: Tensor = (attributes.get("alpha", 0.2) * inputs[0] + attributes.get("beta", 0.5)).clamp(0, 1)
    return made


def _shape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.tensor(inputs[0].shape)[attributes.get("start", 0) : attributes.get("end")]


def _each(function: Callable[..., Any]) -> Operator:
    """An operator whose inputs are the arguments of a torch function."""
    return lambda inputs, attributes: function(*inputs)


def _sum(values: Tensor, axes: list[int], keep: bool) -> Tensor:
    return values.sum(axes, keep)


OPERATORS: dict[str, Operator] = {
    **{name: _each(getattr(torch, name.lower())) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Neg",
        "Pow", "Reciprocal", "Relu", "Sigmoid", "Sin", "Sqrt", "Sub", "Tanh", "Where")},
    "Add": _each(torch.add),
    "And": _each(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda inputs, attributes: inputs[0].to(_DTYPES[attributes["to"]]),
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat(list(inputs), attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "Div": _divide,
    "Dropout": lambda inputs, attributes: inputs[0],
    "Elu": lambda inputs, attributes: functional.elu(inputs[0], attributes.get("alpha", 1.0)),
    "Equal": _each(torch.eq),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": lambda inputs, attributes: functional.gelu(inputs[0], approximate=attributes.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda inputs, attributes: inputs[0].mean(list(range(2, inputs[0].ndim)), True),
    "GlobalMaxPool": lambda inputs, attributes: inputs[0].amax(list(range(2, inputs[0].ndim)), True),
    "Greater": _each(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _each(functional.hardswish),
    "Identity": lambda inputs, attributes: inputs[0],
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda inputs, attributes: functional.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "Less": _each(torch.lt),
    "MatMul": _each(torch.matmul),
    "Max": lambda inputs, attributes: reduce(torch.maximum, inputs),
    "MaxPool": _max_pool,
    "Min": lambda inputs, attributes: reduce(torch.minimum, inputs),
    "Mul": _each(torch.mul),
    "Not": _each(torch.logical_not),
    "Pad": _pad,
    "Range": _range,
    "PRelu": lambda inputs, attributes: torch.where(inputs[0] > 0, inputs[0], inputs[0] * inputs[1]),
    "ReduceL2": lambda inputs, attributes: _reduce(inputs, attributes, lambda v, a, k: v.square().sum(a, k).sqrt()),
    "ReduceMax": lambda inputs, attributes: _reduce(inputs, attributes, torch.amax),
    "ReduceMean": lambda inputs, attributes: _reduce(inputs, attributes, torch.mean),
    "ReduceSum": lambda inputs, attributes: _reduce(inputs, attributes, _sum),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _each(functional.softplus),
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": lambda inputs, attributes: inputs[0].permute(
        attributes.get("perm", list(reversed(range(inputs[0].ndim))))
    ),
    "Unsqueeze": _unsqueeze,
}  # fmt: skip
