"""Figures with intervals, and the intervals of proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959964  # of a 95 % interval
_SURPRISING = 0.05


@dataclass(frozen=True)
class Figure:
    """A value with the ends of its 95 % interval; the ends are equal to it where there is nothing to resample."""

    value: float
    low: float
    high: float


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
