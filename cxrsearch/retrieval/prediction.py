"""A model that ``cxrsearch transfer --save`` fitted on embeddings, applied to a new image; numbers in JSON, no pickle.

{"format": 1, "target": ..., "classes": [...], "fingerprint": sha256 of the encoder, "model": its name,
 "mean": [D], "scale": [D], "coefficients": [C][D], "intercept": [C], "card": {...}}

C is 1 for two classes (the second is the event) and for a number, else the number of classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import InputError, ModelMismatch

PREDICTION_FORMAT = 1
_LARGEST_FILE = 20 * 2**20


@dataclass(frozen=True)
class Prediction:
    """Of one image.

    predicted: the probability of every class, 0..1; empty where the target is a number.
    value: the number, None where the target has classes.
    card: how the model was made and how good it was on patients it did not see.
    """

    target: str
    predicted: Mapping[str, float]
    value: float | None
    card: Mapping[str, Any]


class Predictor:
    def __init__(self, path: Path) -> None:
        """Raises InputError for a file that is no such model."""
        self._path = path
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise InputError(f"{path}: larger than any model of cxrsearch transfer --save")
            data = json.loads(path.read_text("utf-8"))
            if data["format"] != PREDICTION_FORMAT:
                raise InputError(f"{path}: prediction format {str(data['format'])[:20]!r}; this version reads 1")
            self.target, self.classes = str(data["target"]), tuple(map(str, data["classes"]))
            self.fingerprint, self.model, self.card = str(data["fingerprint"]), str(data["model"]), dict(data["card"])
            self._mean, self._scale = (np.array(data[name], dtype=np.float64) for name in ("mean", "scale"))
            self._weights = np.array(data["coefficients"], dtype=np.float64)
            self._intercept = np.array(data["intercept"], dtype=np.float64)
            rows = len(self.classes) if len(self.classes) > 2 else 1
            arrays = (self._mean, self._scale, self._weights, self._intercept)
            shapes = (self._mean.shape, self._mean.shape, (rows, *self._mean.shape), (rows,))
            fit = tuple(array.shape for array in arrays) == shapes and self._mean.ndim == 1
            finite = all(np.isfinite(array).all() for array in arrays)
            distinct = len(set(self.classes)) == len(self.classes) != 1
            if not fit or not finite or not (self._scale > 0).all() or not distinct:
                raise InputError(f"{path}: damaged; its numbers do not fit together")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); cxrsearch transfer --save makes one"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError):
            raise InputError(f"{path}: not a model of cxrsearch transfer --save") from None

    def check_model(self, name: str, fingerprint: str) -> None:
        """Raises ModelMismatch for embeddings of another encoder than the one it was fitted on."""
        if fingerprint != self.fingerprint:
            raise ModelMismatch(
                f"the prediction was fitted on embeddings of {self.model} ({self.fingerprint[:12]}),"
                f" not of {name} ({fingerprint[:12]}). Run cxrsearch transfer --save on this index."
            )

    def predict(self, vector: NDArray[np.float32]) -> Prediction:
        """``vector``: (D,) float32 of unit length. Raises InputError where the model's numbers give none."""
        if vector.shape != self._mean.shape:
            raise InputError(f"{self._path}: damaged; it is for embeddings of {len(self._mean)} dimensions")
        with np.errstate(over="ignore", invalid="ignore"):
            logits = self._weights @ ((vector - self._mean) / self._scale) + self._intercept
        if not np.isfinite(logits).all():
            raise InputError(f"{self._path}: damaged; what it predicts is no finite number")
        if not self.classes:
            return Prediction(self.target, {}, float(logits[0]), self.card)
        if len(self.classes) == 2:
            event = float(1 / (1 + np.exp(-np.clip(logits[0], -500, 500))))
            shares = [1 - event, event]
        else:
            powers = np.exp(logits - logits.max())
            shares = (powers / powers.sum()).tolist()
        return Prediction(self.target, dict(zip(self.classes, shares, strict=True)), None, self.card)
