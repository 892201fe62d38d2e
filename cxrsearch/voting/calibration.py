"""What ``cxrsearch calibrate`` learnt of an index; kept with its facts, so that it moves and is backed up with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import IndexUnavailable
from cxrsearch.statistics import Figure

CALIBRATION_FORMAT = 2
# The part of new patients whose true value is to be among the likely ones.
COVERAGE = 0.9


@dataclass(frozen=True)
class Kernel:
    """How neighbours count (vote.py). reach: in cosine similarity, infinite where all count alike; prior: in voters."""

    reach: float
    prior: float
    sharpness: float

    def weights(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of voters by their similarity, 0..1; minus infinity stands for no voter and weighs nothing."""
        there = np.isfinite(scores)
        return np.where(there, np.exp(-np.maximum(0.0, 1.0 - np.where(there, scores, 1.0)) / self.reach), 0.0)

    def probabilities(self, tally: NDArray[np.float64], base: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., C), adding up to one, of the voters' weight for each of C values, (..., C), and their base rates, (C,).

        p ~ base * (share / base) ** sharpness, where share is the value's part of the weight and of the prior's.
        """
        share = (tally + self.prior * base) / (tally.sum(axis=-1, keepdims=True) + self.prior)
        raw = base * (share / base) ** self.sharpness
        return np.asarray(raw / raw.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class FieldCalibration:
    """Of one field. threshold: the least probability of a likely value, 0..1; patients: who taught the kernel, who set
    the threshold, on whom the figures were measured; figures: Brier, Brier of the base rate, gain
    (the second less the first), ECE, coverage, likely values."""

    kernel: Kernel
    threshold: float
    coverage: float
    patients: tuple[int, int, int]
    figures: Mapping[str, Figure]

    @property
    def useful(self) -> bool:
        """Whether the vote was better than the base rate, beyond what chance could make of so many patients."""
        return self.figures["gain"].low > 0


def likely(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """The conformal set of (..., C) probabilities: every value from the threshold up, and in any case the likeliest."""
    return np.asarray((probabilities >= threshold) | (probabilities == probabilities.max(axis=-1, keepdims=True)))


@dataclass(frozen=True)
class Calibration:
    """Of one index. made: ISO date; images: how many the index had; novelty: the least similarity, -1..1, to the
    nearest other patient at which a query counts as known territory; refused: fields that were not calibrated, and why;
    learnt_from: datasets of the index that the encoder was trained on, which makes every figure here too good."""

    made: str
    images: int
    seed: int
    novelty: float
    fields: Mapping[str, FieldCalibration]
    refused: Mapping[str, str]
    learnt_from: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        data = {"format": CALIBRATION_FORMAT, **asdict(self)}
        for field in data["fields"].values():
            if math.isinf(field["kernel"]["reach"]):
                field["kernel"]["reach"] = None  # JSON has no infinity
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Calibration | None:
        """None where there is none. Raises IndexUnavailable for one that cannot be read."""
        if data is None:
            return None
        try:
            if data["format"] != CALIBRATION_FORMAT:
                raise ValueError
            return cls(
                str(data["made"]),
                int(data["images"]),
                int(data["seed"]),
                _number(data["novelty"]),
                {str(name): _field(field) for name, field in data["fields"].items()},
                {str(name): str(why) for name, why in data["refused"].items()},
                tuple(map(str, data["learnt_from"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise IndexUnavailable("the index's calibration is damaged; run cxrsearch calibrate again") from None


def _field(data: Mapping[str, Any]) -> FieldCalibration:
    kernel = data["kernel"]
    reach = math.inf if kernel["reach"] is None else _number(kernel["reach"])
    if not reach > 0 or not _number(kernel["prior"]) > 0:
        raise ValueError
    teaching, setting, measuring = map(int, data["patients"])
    return FieldCalibration(
        Kernel(reach, float(kernel["prior"]), _number(kernel["sharpness"])),
        _number(data["threshold"]),
        _number(data["coverage"]),
        (teaching, setting, measuring),
        {str(name): _figure(figure) for name, figure in data["figures"].items()},
    )


def _figure(data: Mapping[str, Any]) -> Figure:
    return Figure(_number(data["value"]), _number(data["low"]), _number(data["high"]))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number
