"""Figures with intervals: by bootstrap over patients, and in closed form for proportions.

``weights`` are (rounds, N), the times each case was drawn. The first row of ``resampled`` is the cases themselves, so
the first of what a function gives for them, (rounds,), is the estimate and the rest its resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_Z = 1.959964  # of a 95 % interval
_SURPRISING = 0.05
_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Figure:
    """A value with the ends of its 95 % interval; the ends are equal to it where there is nothing to resample."""

    value: float
    low: float
    high: float

    def written(self, spec: str = ".3f") -> str:
        """``0.873 (0.851 to 0.894)``: how a figure is shown everywhere. ``spec``: the format of each number."""
        return f"{self.value:{spec}} ({self.interval(spec)})"

    def interval(self, spec: str = ".3f") -> str:
        """``0.851 to 0.894``, for a column of its own."""
        return f"{self.low:{spec}} to {self.high:{spec}}"


def resampled(owners: NDArray[np.str_], rounds: int, seed: int) -> Floats:
    """(1 + rounds, N): every case once, then patients drawn with replacement, all their cases with them."""
    _, owner = np.unique(owners, return_inverse=True)
    count = int(owner.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    return np.concatenate([np.ones((1, len(owner))), drawn[:, owner].astype(np.float64)])


def figure(series: Floats, widened: float = 1.0) -> Figure:
    """Of a (1 + rounds,) series: the first is the figure itself, the rest its resamples, whose distance from it is
    multiplied by ``widened``."""
    rest = series[1:][~np.isnan(series[1:])]
    if np.isnan(series[0]) or not len(rest):
        return Figure(float(series[0]), float(series[0]), float(series[0]))
    low, high = np.percentile(rest, (2.5, 97.5))
    value = float(series[0])
    return Figure(value, value - widened * (value - float(low)), value + widened * (float(high) - value))


def ece(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Expected calibration error over ten bins of equal width (Guo et al., ICML 2017, arXiv 1706.04599)."""
    place = np.minimum((score * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gap = np.zeros(len(weights))
    for bin_ in range(_CALIBRATION_BINS):
        gap += np.abs(weights[:, place == bin_] @ (score - positive)[place == bin_])
    return ratio(gap, weights.sum(axis=1))


def ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    found = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found


def surprising(share: float, number: int) -> bool:
    """Whether so many draws, all of one kind that has this share of the whole (0..1), are more than chance."""
    return bool(share**number < _SURPRISING)


def wilson(hits: float, number: float) -> tuple[float, float]:
    """The 95 % interval of a proportion of ``hits`` in ``number``, 0..1; 0..1 whole where number is zero.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if number <= 0:
        return 0.0, 1.0
    part, square = hits / number, _Z * _Z / number
    middle = (part + square / 2) / (1 + square)
    half = _Z * math.sqrt(part * (1 - part) / number + square / (4 * number)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def difference(first: float, of_first: float, second: float, of_second: float) -> tuple[float, float]:
    """The 95 % interval of the difference of two independent proportions, first less second, -1..1.

    R. G. Newcombe, "Interval estimation for the difference between independent proportions", Stat Med 1998, method 10.
    """
    if of_first <= 0 or of_second <= 0:
        return -1.0, 1.0
    a, b = first / of_first, second / of_second
    (low_a, high_a), (low_b, high_b) = wilson(first, of_first), wilson(second, of_second)
    below = math.sqrt((a - low_a) ** 2 + (high_b - b) ** 2)
    above = math.sqrt((high_a - a) ** 2 + (b - low_b) ** 2)
    return a - b - below, a - b + above
