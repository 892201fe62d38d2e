"""A filter -> counts of images and patients, or the rows themselves."""

from __future__ import annotations

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
    check_groups(by, store.facts.all_fields)
    images: dict[tuple[Scalar | None, ...], int] = defaultdict(int)
    patients: dict[tuple[Scalar | None, ...], set[str]] = defaultdict(set)
    unknown: dict[tuple[Scalar | None, ...], int] = defaultdict(int)
    everyone: set[str] = set()
    total = without = 0
    for point in store.scroll(expression, fields=[*by, "patient"]):
        patient = point.payload.get("patient")
        total += 1
        without += patient is None
        if patient is not None:
            everyone.add(str(patient))
        for cell in product(*(_cell(point.payload, name) for name in by)):
            images[cell] += 1
            unknown[cell] += patient is None
            if patient is not None:
                patients[cell].add(str(patient))
    groups = [Group(cell, number, len(patients[cell]), unknown[cell]) for cell, number in images.items()]
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


def _cell(payload: Payload, name: str) -> Sequence[Scalar | None]:
    return values_of(payload, name) or (None,)


def rows(store: VectorStore, expression: Expression | None = None) -> Iterator[Payload]:
    """The payload of every image that meets the expression."""
    for point in store.scroll(expression):
        yield shown(point.payload)
