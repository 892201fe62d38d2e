"""Any ONNX file: what it takes and gives, as far as the file says it, and what the user has to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cxrsearch.errors import InputError, UsageError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat, Pooling
from cxrsearch.onnx_session import Session
from trainer.importing.source import Choices

LARGEST = 2**31 - 1  # bytes of a message of Protocol Buffers
_LISTED = 20  # inputs or outputs that a message names
_PLACES = ("places", "attention")


@dataclass(frozen=True)
class InspectedFile:
    """dimensions: D. has_places: its outputs ``places`` and ``attention`` are as encoder.py says."""

    input: InputFormat
    output: str
    pooling: Pooling
    dimensions: int | None
    has_places: bool


def inspect(path: Path, label: str, choices: Choices) -> InspectedFile:
    """label: what messages call it. Raises InputError for a file that cannot be used, UsageError where something has to
    be said of it."""
    session = Session(path.read_bytes(), label, threads=1)
    taken = choices.applied(_input(label, session.inputs, choices))
    outputs = session.outputs
    name = choices.output or ("embedding" if "embedding" in outputs else next(iter(outputs)))
    if name not in outputs or (choices.output is None and "embedding" not in outputs and len(outputs) > 1):
        listed = _listed(f"{one.name} {one.shape}" for one in outputs.values())
        raise UsageError(f"{label}: which output is the embedding? Give --output, one of: {listed}")
    shape = outputs[name].shape
    pooling = choices.pooling or {2: Pooling.NONE, 4: Pooling.MEAN_PLACES}.get(len(shape))
    if pooling is None or len(shape) < 2 or outputs[name].type != "tensor(float)":
        raise UsageError(
            f"{label}: output {name} is {outputs[name].type} of {shape}: say how, by --pooling or --output"
        )
    last = shape[1] if pooling in (Pooling.NONE, Pooling.MEAN_PLACES) else shape[-1]
    has_places = name == "embedding" and set(_PLACES) <= outputs.keys() and taken.resizing is Resizing.PAD
    return InspectedFile(taken, name, pooling, last if isinstance(last, int) else None, has_places)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(islice(names, _LISTED))


def _input(label: str, inputs: Sequence[Any], choices: Choices) -> InputFormat:
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        listed = _listed(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise InputError(
            f"{label}: takes {listed}; an encoder takes one input of floats, (batch, channels, size, size)"
        )
    batch, channels, *sides = inputs[0].shape
    if isinstance(batch, int) and batch != 1:
        raise InputError(f"{label}: takes {batch} pictures at once; export it with a batch of any size, or of one")
    if channels not in (1, 3):
        raise InputError(f"{label}: takes {channels} channels; an encoder takes 1 or 3")
    fixed = {one for one in sides if isinstance(one, int)}
    if len(fixed) > 1:
        raise InputError(f"{label}: takes pictures of {sides[1]} x {sides[0]} pixels; only squares can be used")
    if not fixed and choices.size is None:
        raise UsageError(f"{label}: does not say the size of its pictures; give --size")
    if fixed and choices.size is not None and choices.size not in fixed:
        raise UsageError(f"{label}: takes pictures of {fixed.pop()} pixels, not --size {choices.size}")
    return InputFormat(channels, fixed.pop() if fixed else choices.size or 0, mean=(0.0,) * channels,
                       deviation=(1.0,) * channels)  # fmt: skip
