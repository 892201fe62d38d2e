"""A model folder -> embeddings, by ONNX Runtime; no torch needed.

MODEL/model.json            the card: sizes, checksums, what it was trained on, its figures
MODEL/encoder.onnx          what runs here
MODEL/weights.safetensors   for going on training
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import ModelError
from cxrsearch.onnx_graph import check_graph

MODEL_FORMAT = 1
# The largest encoder that anybody would index with takes two on one slow core.
SECONDS_PER_PICTURE = 60
# What a card may say: more is no encoder's, and would take the memory of the machine.
_LARGEST_SIDE, _MOST_DIMENSIONS = 4096, 65_536
DEFAULT_MODEL = Path(__file__).parent / "models" / "cxr-1"


@dataclass(frozen=True)
class ModelCard:
    """What a model folder says of itself. fingerprint: the sha256 of encoder.onnx; image_size in pixels."""

    name: str
    fingerprint: str
    image_size: int
    dimensions: int
    described: Mapping[str, Any]


@dataclass(frozen=True)
class Encoded:
    """embedding (B, D), unit length; places (B, D, h, w), summing to the embedding over (h, w);
    attention (B, h, w), summing to one over the places. All float32."""

    embedding: NDArray[np.float32]
    places: NDArray[np.float32]
    attention: NDArray[np.float32]


def read_card(folder: Path) -> ModelCard:
    """Raises ModelError."""
    path = folder / "model.json"
    try:
        described = json.loads(path.read_text("utf-8"))
        if described["format"] != MODEL_FORMAT:
            raise ModelError(f"{folder}: model format {described['format']!r}; this version reads {MODEL_FORMAT}")
        card = ModelCard(
            str(described["name"]),
            str(described["sha256"]["encoder.onnx"]),
            int(described["image_size"]),
            int(described["dimensions"]),
            described,
        )
        if not (1 <= card.image_size <= _LARGEST_SIDE and 1 <= card.dimensions <= _MOST_DIMENSIONS):
            raise ValueError
        return card
    except OSError:
        raise ModelError(f"{folder}: not a model folder (no model.json that can be read). See --model.") from None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise ModelError(f"{path}: damaged; get the model folder again") from None


class Encoder:
    """The exported encoder of a model folder."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Raises ModelError when the folder is no model or its checksum is wrong.

        threads: cores used for one batch; all by default.
        """
        self.card = read_card(folder)
        try:
            model = (folder / "encoder.onnx").read_bytes()
        except OSError:
            raise ModelError(f"{folder / 'encoder.onnx'}: missing; get the model folder again") from None
        if hashlib.sha256(model).hexdigest() != self.card.fingerprint:
            raise ModelError(f"{folder / 'encoder.onnx'}: not the file its card names (wrong sha256); get it again")
        try:
            check_graph(model)
        except ValueError as error:
            raise ModelError(f"{folder / 'encoder.onnx'}: cannot be run: {error}") from None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # its reserve costs more memory than it saves time here
        try:
            # From bytes, so that the file cannot refer to data outside itself.
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            (given,) = self._session.get_inputs()
            named = {output.name for output in self._session.get_outputs()}
        except Exception as error:  # onnxruntime's own errors share no public class
            raise ModelError(f"{folder / 'encoder.onnx'}: cannot be run ({type(error).__name__})") from None
        size = self.card.image_size
        if list(given.shape[1:]) != [1, size, size] or not {"embedding", "places", "attention"} <= named:
            raise ModelError(f"{folder / 'encoder.onnx'}: not an encoder of cxrsearch (other inputs or outputs)")
        self._input = given.name

    def embed(self, pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(B, D) float32, unit length. ``pictures``: canonical pixels, each (S, S) float32 in 0..1."""
        (embedding,) = self._run(["embedding"], pictures)
        return embedding

    def encode(self, pictures: Sequence[NDArray[np.float32]]) -> Encoded:
        """As :meth:`embed`, with the places that the embedding is the sum of."""
        return Encoded(*self._run(["embedding", "places", "attention"], pictures))

    def _run(self, outputs: list[str], pictures: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Raises ModelError when it takes too long: an encoder is somebody else's program."""
        import onnxruntime

        limit = onnxruntime.RunOptions()
        seconds = SECONDS_PER_PICTURE * len(pictures)
        timer = threading.Timer(seconds, setattr, (limit, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            found = self._session.run(outputs, {self._input: np.stack(pictures)[:, None]}, limit)
        except Exception:
            if limit.terminate:
                what = f"takes more than {seconds:g} s for {len(pictures)} pictures"
                raise ModelError(f"model {self.card.name}: {what}; use another, or a faster machine") from None
            raise
        finally:
            timer.cancel()
        return [np.asarray(array, dtype=np.float32) for array in found]
