"""What is imported: a source as it is written, and a network that was loaded from it.

    open_clip:NAME:TAG    an open_clip model and the tag of its weights
    hf-hub:ORG/NAME       an open_clip model of a hub; local-dir:FOLDER, one that was saved
    timm:NAME             a timm model
    hf:ORG/NAME           a Hugging Face image model (AutoModel); hf:FOLDER, one that was saved
    xrv:NAME              a DenseNet of torchxrayvision
    FILE.onnx             any ONNX file

Files of strangers are never run: weights are safetensors, or are unpickled by torch's ``weights_only``, and no model
brings code of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cxrsearch.errors import InputError, UsageError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat, Pooling
from cxrsearch.tokenizer import TextFormat

if TYPE_CHECKING:
    from torch import nn

# Of a pickle of more than tensors.
NOT_SAFE = "not weights that can be read safely: they hold more than numbers; ask their makers for safetensors"
LOCAL = "local-dir:"
HUBS = ("hf-hub:", LOCAL)
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class LoadedText:
    """network: (B, context) int64 as ``format`` says -> (B, D) float32 of any length.

    tokenizer: its file. tokens: a text's, by the tokenizer as it was loaded.
    """

    network: nn.Module
    format: TextFormat
    tokenizer: bytes
    tokens: Callable[[str], list[int]]


@dataclass(frozen=True)
class LoadedEncoder:
    """network: (B, channels, S, S) float32 as ``input`` says -> (B, D) float32 of any length. backbone: what it is.

    licence: of its weights, where its makers say it. text: its text encoder. without_text: why that of a model which
    has one cannot be taken along.
    """

    network: nn.Module
    input: InputFormat
    backbone: str
    licence: str | None = None
    text: LoadedText | None = None
    without_text: str = ""


@dataclass(frozen=True)
class Choices:
    """What the user said of an encoder; None where its own settings count.

    size: in pixels. value_range: of black and white. mean, deviation: one number, or one for each channel.
    output, pooling: of an ONNX file, what becomes the embedding, and how.
    """

    size: int | None = None
    value_range: tuple[float, float] | None = None
    mean: Numbers | None = None
    deviation: Numbers | None = None
    resizing: Resizing | None = None
    output: str | None = None
    pooling: Pooling | None = None

    def applied(self, own: InputFormat) -> InputFormat:
        """Raises UsageError."""
        low, high = self.value_range or (own.low, own.high)
        made = replace(
            own,
            size=self.size or own.size,
            low=low,
            high=high,
            mean=_each(self.mean, own.mean, own.channels, "--mean"),
            deviation=_each(self.deviation, own.deviation, own.channels, "--deviation"),
            resizing=self.resizing or own.resizing,
        )
        try:
            return InputFormat.from_json(made.as_json())
        except ValueError as error:
            raise UsageError(f"the encoder's input cannot be so: {error}") from None


def _each(given: Numbers | None, own: Numbers, channels: int, option: str) -> Numbers:
    if given is None:
        return own
    if len(given) not in (1, channels):
        raise UsageError(f"{option}: give one number, or {channels}, one for each channel")
    return given if len(given) == channels else given * channels


def triple(numbers: Any) -> Numbers:
    """Mean or deviation as a library's settings have it: one number or three."""
    return tuple(float(number) for number in (numbers if isinstance(numbers, list | tuple) else [numbers] * 3))


def side(size: Any) -> int:
    """The side of a square as a library's settings have it. Raises InputError for what is no square."""
    if isinstance(size, Mapping):
        size = list(size.values())
    sides = {int(number) for number in (size if isinstance(size, list | tuple) else [size])}
    if len(sides) != 1:
        raise InputError(f"takes images of {' x '.join(map(str, sorted(sides)))} pixels; only squares can be used")
    return sides.pop()
