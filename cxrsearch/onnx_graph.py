"""What an ONNX file may hold: a plain graph of standard operators, looked at before any of it runs.

Read from the file's bytes, as searching does without the ``onnx`` package. Field numbers: onnx.proto3 of ONNX 1.x.
"""

from __future__ import annotations

from collections.abc import Iterator

_DOMAINS = ("", "ai.onnx")
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_OPERATOR, _NODE_DOMAIN = 5, 4, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 10, 6, 11
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


def check_graph(model: bytes) -> None:
    """Raises ValueError, which says what it is, for loops, branches, functions, other operators than the standard's,
    or data outside the file; and for what is no ONNX file."""
    view = memoryview(model)
    for field, content in _fields(view):
        if field == _MODEL_FUNCTIONS:
            raise ValueError("functions of its own")
        if field == _MODEL_GRAPH and isinstance(content, memoryview):
            _check_nodes(content)


def _check_nodes(graph: memoryview) -> None:
    for field, content in _fields(graph):
        if not isinstance(content, memoryview):
            continue
        if field == _GRAPH_NODE:
            _check_node(content)
        elif field == _GRAPH_INITIALIZER:
            _check_tensor(content)
        elif field == _GRAPH_SPARSE:
            raise ValueError("sparse weights")


def _check_node(node: memoryview) -> None:
    for field, content in _fields(node):
        if not isinstance(content, memoryview):
            continue
        if field == _NODE_DOMAIN and bytes(content).decode() not in _DOMAINS:
            raise ValueError("operators that are not ONNX's own")
        if field == _NODE_OPERATOR and bytes(content).decode() in _CONTROL_FLOW:
            raise ValueError("loops or branches")
        if field == _NODE_ATTRIBUTE:
            for part, value in _fields(content):
                if part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    raise ValueError("loops or branches")
                if part in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and isinstance(value, memoryview):
                    _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    if any(field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value) for field, value in _fields(tensor)):
        raise ValueError("data outside the file")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message of Protocol Buffers, in order: number and content. Raises ValueError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
        elif kind in (_FIXED_64, _FIXED_32, _BYTES):
            length = {_FIXED_64: 8, _FIXED_32: 4}.get(kind)
            if length is None:
                length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("no ONNX file")
            yield key >> 3, message[at : at + length]
            at += length
        else:
            raise ValueError("no ONNX file")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(10):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << (7 * place)
        at += 1
        if not byte & 0x80:
            return value, at
    raise ValueError("no ONNX file")
