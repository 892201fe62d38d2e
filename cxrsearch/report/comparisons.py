"""Two cohorts side by side, as rows."""

from __future__ import annotations

from typing import Any

from cxrsearch.cohort.comparison import Comparison, Middle, Part
from cxrsearch.report.rows import text_of
from cxrsearch.statistics import Figure

COLUMNS = ["field", "value", "where", "versus", "difference"]


def rows(found: Comparison) -> list[dict[str, Any]]:
    """What people read, for every format that is flat; JSON has the numbers."""
    return [
        {
            "field": row.field,
            "value": "(missing)" if row.value is None else row.value,
            "where": _side(row.first),
            "versus": _side(row.second),
            "difference": _points(row.difference),
        }
        for row in found.rows
    ]


def summary(found: Comparison) -> str:
    a, b = (f"{i} images of {p} patients" for i, p in zip(found.images, found.patients, strict=True))
    both = f"; {found.shared} patients are in both, which the intervals take no account of" if found.shared else ""
    return f"where: {a}; versus: {b}{both}\nshares of patients of whom the field is known, 95 % intervals"


def _side(side: Part | Middle | None) -> str:
    if side is None:
        return "unknown"
    if isinstance(side, Middle):
        quartiles = f"{text_of(side.lower)} to {text_of(side.upper)}"
        return f"median {text_of(side.median)} ({quartiles}), {side.known} patients"
    if not side.known:
        return "unknown"
    return f"{side.patients} of {side.known}, {Figure(side.share, side.low, side.high).written('.0%')}"


def _points(difference: tuple[float, float, float] | None) -> str:
    return "" if difference is None else Figure(*difference).written("+.0%")
