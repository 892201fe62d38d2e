"""What an index knows -> cases to predict something from: embeddings, clinical facts, the target, whose they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import SYSTEM_FIELDS, Field, FieldType, Payload, values_of
from cxrsearch.cohort import counts
from cxrsearch.errors import UsageError
from cxrsearch.store.contract import VectorStore

MISSING = "(missing)"
# What every image has, and what a prediction should not have to rest on.
BASELINES = {"site alone": "site", "view alone": "view", "image shape alone": "shape"}
_NUMBERS = (FieldType.INTEGER, FieldType.FLOAT)


@dataclass(frozen=True)
class Cases:
    """N images of which the target is known.

    vectors: (N, D) float32. truth: (N,), 0 and 1, the number of a class, or a number. classes: the names of these,
    () where the target is a number; of two, the second is the event. owners: (N,) patients. facts: N rows, a
    column for each input field, text or float (NaN where missing). baselines: the same for BASELINES. payloads: N, as
    indexed; ids: N. refused: field -> why it is no input.
    """

    target: str
    classes: tuple[str, ...]
    vectors: NDArray[np.float32]
    truth: NDArray[np.float64]
    owners: NDArray[np.str_]
    facts: pd.DataFrame
    baselines: dict[str, pd.DataFrame]
    payloads: list[Payload]
    ids: list[str]
    refused: dict[str, str]

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def binary(self) -> bool:
        return len(self.classes) == 2

    def values(self, field: str) -> list[str | None]:
        found = [values_of(payload, field) for payload in self.payloads]
        return [str(values[0]) if values else None for values in found]


def load(
    store: VectorStore,
    target: str,
    expression: Expression | None = None,
    named: Sequence[str] | None = None,
    trusted: Sequence[str] = (),
) -> Cases:
    """Every image that meets the expression and whose target is known.

    named: the inputs; without, every field that may be one. trusted: fields that are let in whatever speaks against
    them. Raises UsageError for a field that the index does not have or that can be no input or no target.
    """
    fields = store.facts.all_fields
    counts.check_fields([target], fields, "--target")
    counts.check_fields(named or [], fields, "--with")
    counts.check_fields(trusted, fields, "--trust")
    if fields[target].type in (FieldType.TEXT, FieldType.DATE) or target in SYSTEM_FIELDS:
        raise UsageError(f"--target {target}: predict a keyword, boolean or number that a dataset declares")
    refused = {name: why for name in fields if (why := _objection(fields[name], target)) and name not in trusted}
    for name in named or []:
        if name in refused:
            raise UsageError(f"--with {name}: {refused[name]}; --trust {name} takes it all the same")
    inputs = list(named) if named is not None else [n for n in fields if n not in refused and n not in SYSTEM_FIELDS]
    inputs += [name for name in trusted if name not in inputs and name != target]
    points = [p for p in store.scroll(expression, vectors=True) if target in p.payload and p.vector is not None]
    payloads = [point.payload for point in points]
    if not points:
        raise UsageError(f"--target {target}: known for no image that meets --where")
    classes, truth = _truth(fields[target], payloads)
    known = [name for name in inputs if any(name in payload for payload in payloads)]
    shape = pd.DataFrame(
        {
            "aspect": [float(str(p["width"])) / float(str(p["height"])) for p in payloads],
            "area": [float(str(p["width"])) * float(str(p["height"])) for p in payloads],
        }
    )
    baselines = {
        words: shape if name == "shape" else _table([name], fields, payloads)
        for words, name in BASELINES.items()
        if name == "shape" or (name in fields and name != target and any(name in payload for payload in payloads))
    }
    refused_inputs = {name: why for name, why in refused.items() if name not in SYSTEM_FIELDS and name != target}
    return Cases(
        target,
        classes,
        np.stack([point.vector for point in points if point.vector is not None]),
        truth,
        np.array([str(p.payload.get("patient", f"?{p.id}")) for p in points]),
        _table(known, fields, payloads),
        baselines,
        payloads,
        [p.id for p in points],
        refused_inputs,
    )


def _objection(field: Field, target: str) -> str | None:
    """Why a field is no input, None when nothing speaks against it."""
    if field.name == target:
        return "it is the target itself"
    if field.name in SYSTEM_FIELDS:
        return "it says how the image was made or whose it is, not how the patient is"
    if field.type is FieldType.TEXT:
        return "free text may tell the outcome"
    if field.type is FieldType.DATE:
        return "a date tells when and where, not how the patient is"
    if field.later:
        return "it became known only after the image was taken"
    return None


def _truth(field: Field, payloads: Sequence[Payload]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    first = [values_of(payload, field.name)[0] for payload in payloads]
    if field.type in _NUMBERS:
        return (), np.array([float(value) for value in first])
    if field.type is FieldType.BOOLEAN:
        return ("no", "yes"), np.array([float(bool(value)) for value in first])
    words = [str(value) for value in first]
    # Of two values the rarer is the event, as died beside survived.
    classes = sorted(set(words), key=lambda value: (-words.count(value), value))
    if len(classes) > 2:
        classes = sorted(classes)
    return tuple(classes), np.array([float(classes.index(word)) for word in words])


def _table(names: Sequence[str], fields: Mapping[str, Field], payloads: Sequence[Payload]) -> pd.DataFrame:
    columns: dict[str, pd.Series[Any]] = {}
    for name in names:
        found = [values_of(payload, name) for payload in payloads]
        if fields[name].type in _NUMBERS:
            columns[name] = pd.Series([float(v[0]) if v else np.nan for v in found], dtype="float64")
        else:
            columns[name] = pd.Series(["; ".join(sorted(map(str, v))) if v else MISSING for v in found], dtype="object")
    return pd.DataFrame(columns, index=range(len(payloads)))
