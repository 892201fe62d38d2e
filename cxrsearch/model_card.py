"""What a model folder says of itself: its card, ``model.json``; and which folder the name of a model means.

Format 2 says what the encoder's file takes and gives, so that anybody's encoder can be used. Format 1, of encoders
trained here by older versions, is read as what those take and give.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cxrsearch import settings
from cxrsearch.errors import ModelError, WrongTypeError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.text import clean, nearest
from cxrsearch.tokenizer import TextFormat

FORMATS = (1, 2)
DEFAULT_MODEL = Path(__file__).parent / "models" / "cxr-1"
# The name of a model, which is the name of its folder.
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
# Larger pictures than this would take minutes each; smaller show nothing.
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096
# A card that says more is no encoder's, and would take the memory of the machine.
_MOST_DIMENSIONS = 65_536


class Pooling(StrEnum):
    """How the output becomes one vector a picture.

    none: it is (B, D) already; mean_places: the mean of (B, D, h, w); first_token, mean_tokens: of (B, N, D).
    """

    NONE = "none"
    MEAN_PLACES = "mean_places"
    FIRST_TOKEN = "first_token"
    MEAN_TOKENS = "mean_tokens"


@dataclass(frozen=True)
class InputFormat:
    """What an encoder takes: (B, channels, size, size) float32.

    channels: 1 or 3, which then are alike.
    size: in pixels.
    low, high: what black and white are, before mean and deviation.
    mean, deviation: one for each channel; subtracted, and divided by.
    resizing: how a radiograph becomes square.
    """

    channels: int
    size: int
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    resizing: Resizing = Resizing.PAD

    def as_json(self) -> dict[str, Any]:
        return {
            "channels": self.channels,
            "size": self.size,
            "range": [self.low, self.high],
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "resizing": str(self.resizing),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputFormat:
        """Raises ValueError, KeyError or TypeError."""
        low, high = (float(number) for number in data["range"])
        mean, deviation = (tuple(float(number) for number in data[name]) for name in ("mean", "deviation"))
        found = cls(int(data["channels"]), int(data["size"]), low, high, mean, deviation, Resizing(data["resizing"]))
        numbers = (low, high, *mean, *deviation)
        if found.channels not in (1, 3) or {len(mean), len(deviation)} != {found.channels}:
            raise ValueError("1 or 3 channels, each with its mean and deviation")
        if not (all(map(math.isfinite, numbers)) and low < high and min(deviation) > 0):
            raise ValueError("a range, mean or deviation that cannot be")
        if not SMALLEST_SIDE <= found.size <= LARGEST_SIDE:
            raise ValueError("a size that cannot be")
        return found


@dataclass(frozen=True)
class ModelCard:
    """What a model folder says of itself.

    fingerprint: the sha256 of encoder.onnx.
    dimensions: D of the embedding.
    described: the whole of model.json.
    input: what the encoder takes.
    output: the name of what becomes the embedding, and how.
    has_places: whether it says which place adds what to an embedding, as --explain and --region need.
    text: what its text encoder takes; None where it has none.
    """

    name: str
    fingerprint: str
    dimensions: int
    described: Mapping[str, Any]
    input: InputFormat
    output: str
    pooling: Pooling
    has_places: bool
    text: TextFormat | None = None

    @property
    def image_size(self) -> int:
        """In pixels."""
        return self.input.size

    @property
    def without_places(self) -> str:
        """Why --explain and --region are refused."""
        return f"model {self.name} does not say which place of an image adds what to its embedding"

    @property
    def without_text(self) -> str:
        """Why --text is refused."""
        return (
            f"model {self.name} has no text encoder; import an open_clip model with cxrsearch models import and make an"
            " index by it with cxrsearch reembed (docs/how-to/encoders.md)"
        )


def read_card(folder: Path) -> ModelCard:
    """Raises ModelError."""
    path = folder / "model.json"
    try:
        described = json.loads(path.read_text("utf-8"))
        if described["format"] not in FORMATS:
            raise ModelError(f"{folder}: model format {described['format']!r}; this version reads 1 and 2")
        card = _card(described)
        if not (SMALLEST_SIDE <= card.image_size <= LARGEST_SIDE and 1 <= card.dimensions <= _MOST_DIMENSIONS):
            raise ValueError
        return card
    except OSError:
        raise ModelError(f"{folder}: not a model folder (no model.json that can be read). See --model.") from None
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError):
        raise ModelError(f"{path}: damaged; get the model folder again") from None


def _card(described: dict[str, Any]) -> ModelCard:
    name, fingerprint = clean(str(described["name"])), str(described["sha256"]["encoder.onnx"])
    dimensions = int(described["dimensions"])
    if described["format"] == 1:
        taken = InputFormat(1, int(described["image_size"]))
        return ModelCard(name, fingerprint, dimensions, described, taken, "embedding", Pooling.NONE, True)
    taken, outputs = InputFormat.from_json(described["input"]), described["outputs"]
    has_places = outputs.get("places") is not None
    if has_places and taken.resizing is not Resizing.PAD:
        raise ValueError("places are of a padded picture")
    pooling = Pooling(described["pooling"])
    text = TextFormat.from_json(described["text"]) if described.get("text") is not None else None
    return ModelCard(
        name, fingerprint, dimensions, described, taken, str(outputs["embedding"]), pooling, has_places, text
    )


def read_file(card: ModelCard, path: Path) -> bytes:
    """A file of a model folder, which has to be the one that its card names. Raises ModelError."""
    import hashlib  # loads OpenSSL, which a command that opens no model does without

    try:
        content = path.read_bytes()
    except OSError:
        raise ModelError(f"{path}: missing; get the model folder again") from None
    if hashlib.sha256(content).hexdigest() != card.described["sha256"].get(path.name):
        raise ModelError(f"{path}: not the file its card names (wrong sha256); get it again")
    return content


def find_model(name: str | Path | None) -> Path:
    """The folder that a name of an installed model, or the path of a folder, means; None: the model that ships.

    Names go first: a folder of that name in the working folder may be a stranger's. Raises ModelError.
    """
    if name is None:
        return DEFAULT_MODEL
    if not isinstance(name, str | os.PathLike):
        raise WrongTypeError("model", "the name or the folder of a model", name)
    known: dict[str, Path] = {}
    for folder in installed_models():
        known.setdefault(folder.name, folder)  # a model that ships keeps its name
    if (found := known.get(str(name))) is not None:
        return found
    if (Path(name) / "model.json").exists() or Path(name).is_dir():
        return Path(name)
    near = nearest(str(name), known) or f" Installed: {', '.join(sorted(known))}."
    raise ModelError(f"--model {clean(str(name))}: no model folder and no installed model.{near}")


def installed_models() -> Iterator[Path]:
    """The folders of models that have a name: those that ship, then those that were imported."""
    for parent in (DEFAULT_MODEL.parent, settings.models_folder()):
        if parent.is_dir():
            yield from sorted(path.parent for path in parent.glob("*/model.json"))
