"""A filter -> counts of images and patients, or the rows themselves."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from cxrsearch.clinical.expression import And, Contains, Expression, Mentions, Missing, Not, Or, both
from cxrsearch.clinical.fields import AFFIRMED, Field, FieldType, Payload, Scalar, shown, values_of
from cxrsearch.errors import UsageError
from cxrsearch.store.contract import VectorStore
from cxrsearch.text import nearest

MAX_FIELDS = 3
_STEP = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Group:
    """One cell of a cross-count. values: one per field, None for missing.

    patients: different ones; unknown: images without a patient number, which belong to no counted patient.
    """

    values: tuple[Scalar | None, ...]
    images: int
    patients: int
    unknown: int


def check_fields(names: Sequence[str], fields: Mapping[str, Field], option: str) -> None:
    """Raises UsageError for a field that the index does not have."""
    for name in names:
        if name not in fields:
            near = nearest(name, fields) or f" Fields: {', '.join(sorted(fields))}."
            raise UsageError(f"{option} {name}: no such field in this index.{near}")


@dataclass(frozen=True)
class Grouping:
    """A field to count by. step: the width of a group of numbers, or "year" or "month" of dates; None for values."""

    field: str
    step: float | str | None = None

    def group(self, value: Scalar) -> Scalar:
        """What stands for a value: itself, ``50 to 59``, ``1.5 to 2`` (the latter not in it), ``2020-03``."""
        if self.step is None:
            return value
        if isinstance(self.step, str):
            return str(value)[: 4 if self.step == "year" else 7]
        low = math.floor(float(value) / self.step) * self.step
        if isinstance(value, int) and self.step.is_integer():
            return f"{low:.0f} to {low + self.step - 1:.0f}" if self.step > 1 else value
        # Twelve digits: with six, steps of a large number would have one name.
        return f"{low:.12g} to {low + self.step:.12g}"


def grouping(text: str, fields: Mapping[str, Field]) -> Grouping:
    """``age``, ``age:10``, ``study_date:month``. Raises UsageError."""
    name, colon, step = text.partition(":")
    check_groups([name], fields)
    if not colon:
        return Grouping(name)
    match fields[name].type:
        case FieldType.DATE if step in ("year", "month"):
            return Grouping(name, step)
        case FieldType.INTEGER | FieldType.FLOAT if _STEP.fullmatch(step) and float(step) > 0:
            return Grouping(name, float(step))
        case FieldType.DATE:
            raise UsageError(f"--by {text}: dates are grouped by year or month: --by {name}:month")
        case FieldType.INTEGER | FieldType.FLOAT:
            raise UsageError(f"--by {text}: numbers are grouped by a width: --by {name}:10")
    raise UsageError(f"--by {text}: only numbers and dates are grouped; count by --by {name}")


def check_groups(names: Sequence[str], fields: Mapping[str, Field]) -> None:
    """Raises UsageError for a field that the index does not have, and for text, of which no two are equal."""
    check_fields(names, fields, "--by")
    for name in names:
        if fields[name].type is FieldType.TEXT:
            raise UsageError(
                f"--by {name}: is free text, which is not counted. Count the images with a word in it:"
                f" --where '{name} contains \"word\"'"
            )


def denials(store: VectorStore, expression: Expression | None) -> list[str]:
    """A warning for each ``contains`` whose matches mostly deny what is looked for: "no pleural effusion"."""
    warnings = []
    match expression:
        case And(parts) | Or(parts):
            warnings = [warning for part in parts for warning in denials(store, part)]
        case Contains(field, text) if store.facts.all_fields[field].type is FieldType.TEXT:
            read = store.count(And((expression, Not(Missing(AFFIRMED + field)))))
            denied = read - store.count(And((expression, Mentions(field, text))))
            if denied > read / 2:
                warnings.append(
                    f'{denied} of {read} images whose {field} contains "{text}" have it denied there, as in "no ...":'
                    f' {field} mentions "{text}" leaves them out'
                )
    return warnings


def count(store: VectorStore, by: Sequence[str], expression: Expression | None = None) -> tuple[list[Group], Group]:
    """The groups, largest first, and the total over all images (its ``values`` empty).

    An image with two values of a field is counted in both groups, and once in the total.
    Raises UsageError for an unknown field, or more than three.
    """
    if len(by) > MAX_FIELDS:
        raise UsageError(f"--by: at most {MAX_FIELDS} fields, not {len(by)}")
    groupings = [grouping(text, store.facts.all_fields) for text in by]
    images: dict[tuple[Scalar | None, ...], int] = defaultdict(int)
    patients: dict[tuple[Scalar | None, ...], set[str]] = defaultdict(set)
    unknown: dict[tuple[Scalar | None, ...], int] = defaultdict(int)
    everyone: set[str] = set()
    total = without = 0
    for point in store.scroll(expression, fields=[*(one.field for one in groupings), "patient"]):
        patient = point.payload.get("patient")
        total += 1
        without += patient is None
        if patient is not None:
            everyone.add(str(patient))
        for cell in product(*(groups_of(point.payload, one) for one in groupings)):
            images[cell] += 1
            unknown[cell] += patient is None
            if patient is not None:
                patients[cell].add(str(patient))
    groups = [Group(cell, number, len(patients[cell]), unknown[cell]) for cell, number in images.items()]
    # Steps in their order; else the largest group first.
    if any(one.step is not None for one in groupings):
        groups.sort(key=lambda group: [in_order(value) for value in group.values])
        return groups, Group((), total, len(everyone), without)
    groups.sort(key=lambda group: (-group.images, [str(value) for value in group.values]))
    return groups, Group((), total, len(everyone), without)


def shares(store: VectorStore, field: str, expression: Expression | None = None) -> dict[Scalar, float]:
    """How common each value is among the images that have the field and meet the expression: parts that add up to one,
    an image of several values counted for each; empty where no image has it."""
    counts = store.values(field, expression)
    total = sum(counts.values())
    return {value: number / total for value, number in counts.items()}


def known(store: VectorStore, field: str, expression: Expression | None = None) -> float:
    """Which part of the images that meet the expression have the field, 0..1."""
    images = store.count(expression)
    return store.count(both(Not(Missing(field)), expression)) / images if images else 0.0


def groups_of(payload: Payload, by: Grouping) -> Sequence[Scalar | None]:
    """What an image is counted as: each group that a value of it is in, None where it has none."""
    return list(dict.fromkeys(map(by.group, values_of(payload, by.field)))) or (None,)


def in_order(value: Scalar | None) -> tuple[bool, float, str]:
    """By the number that a group begins with, then as text; missing last."""
    found = re.match(r"-?[0-9.]+", str(value))
    return value is None, float(found[0]) if found and found[0].strip(".-") else 0.0, str(value)


def rows(store: VectorStore, expression: Expression | None = None) -> Iterator[Payload]:
    """The payload of every image that meets the expression."""
    for point in store.scroll(expression):
        yield shown(point.payload)
