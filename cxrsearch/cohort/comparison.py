"""Two cohorts side by side: how common each value is in each, with intervals, and what is missing.

Proportions are of patients, who are independent, not of images, which are not: a patient counts once for each value
that one of the images has. An image without a patient number counts as a patient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import Field, FieldType, Scalar, values_of
from cxrsearch.statistics import difference, wilson
from cxrsearch.store.contract import Point, VectorStore

# Values listed of one field: the most common ones.
MOST_VALUES = 12
_NUMBERS = (FieldType.INTEGER, FieldType.FLOAT)


@dataclass(frozen=True)
class Part:
    """How many of a cohort's patients: ``patients`` of ``known``, a share of 0..1 with its 95 % interval."""

    patients: int
    known: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Middle:
    """Of a number: median and quartiles over the patients of whom it is known; a patient's own median counts."""

    known: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Row:
    """One value of a field in both cohorts; ``value`` None: patients of whom the field is not known; of a number, the
    sides are Middles and the value is empty. difference: first less second, with its 95 % interval."""

    field: str
    value: Scalar | None
    first: Part | Middle | None
    second: Part | Middle | None
    difference: tuple[float, float, float] | None


@dataclass(frozen=True)
class Comparison:
    images: tuple[int, int]
    patients: tuple[int, int]
    shared: int
    rows: list[Row]


def compare(store: VectorStore, first: Expression | None, second: Expression | None) -> Comparison:
    """Every declared field but free text and dates. shared: patients who are in both cohorts."""
    names = list(store.facts.fields)
    sides = [list(store.scroll(which, fields=[*names, "patient"])) for which in (first, second)]
    people = [_by_patient(points) for points in sides]
    rows: list[Row] = []
    for field in store.facts.fields.values():
        if field.type in _NUMBERS:
            rows += _numbers(field, people)
        elif field.type in (FieldType.KEYWORD, FieldType.BOOLEAN):
            rows += _values(field, people)
    shared = len(set(people[0]) & set(people[1]))
    return Comparison((len(sides[0]), len(sides[1])), (len(people[0]), len(people[1])), shared, rows)


People = Mapping[str, Sequence[Point]]


def _by_patient(points: Sequence[Point]) -> People:
    people: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        people[str(point.payload.get("patient", point.id))].append(point)
    return people


def _of(people: People, name: str) -> list[list[Scalar]]:
    """Of each patient, the values of all images; empty where none has the field."""
    return [[value for point in points for value in values_of(point.payload, name)] for points in people.values()]


def _values(field: Field, people: Sequence[People]) -> list[Row]:
    having = [[set(values) for values in _of(side, field.name)] for side in people]
    counts: dict[Scalar, int] = defaultdict(int)
    for value in (value for side in having for values in side for value in values):
        counts[value] += 1
    common = sorted(counts, key=lambda value: (-counts[value], str(value)))[:MOST_VALUES]
    known = [[values for values in side if values] for side in having]
    rows = []
    for value in common:
        a, b = (_part(sum(value in values for values in side), len(side)) for side in known)
        rows.append(Row(field.name, value, a, b, _difference(a, b)))
    return [*rows, *_missing(field, having)]


def _numbers(field: Field, people: Sequence[People]) -> list[Row]:
    having = [[[float(value) for value in values] for values in _of(side, field.name)] for side in people]
    a, b = (_middle([float(np.median(values)) for values in side if values]) for side in having)
    return [Row(field.name, "", a, b, None), *_missing(field, having)]


def _missing(field: Field, having: Sequence[Sequence[object]]) -> list[Row]:
    a, b = (_part(sum(not values for values in side), len(side)) for side in having)
    return [Row(field.name, None, a, b, _difference(a, b))] if a.patients or b.patients else []


def _part(patients: int, known: int) -> Part:
    return Part(patients, known, patients / known if known else 0.0, *wilson(patients, known))


def _middle(values: Sequence[float]) -> Middle | None:
    if not values:
        return None
    lower, median, upper = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    return Middle(len(values), median, lower, upper)


def _difference(a: Part, b: Part) -> tuple[float, float, float] | None:
    if not a.known or not b.known:
        return None
    return (a.share - b.share, *difference(a.patients, a.known, b.patients, b.known))
