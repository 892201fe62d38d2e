"""Payloads and filters in the language of Qdrant Edge, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import Field, FieldType, Payload, Value
from cxrsearch.store.contract import IndexFacts
from cxrsearch.store.filters import Engine, translate
from cxrsearch.store.order import in_order

# Edge 0.9.0 turns MatchValue(True) into the number 1, which matches no boolean: they are kept as keywords.
_BOOLEANS = {True: "true", False: "false"}

_FILTERS = Engine(
    match=lambda key, value: edge.FieldCondition(key, match=edge.MatchValue(_packed(value))),
    match_any=lambda key, values: edge.FieldCondition(key, match=edge.MatchAny(list(values))),
    words=lambda key, text: edge.FieldCondition(key, match=edge.MatchText(text)),
    number=lambda key, **bounds: edge.FieldCondition(key, range=edge.RangeFloat(**bounds)),
    date=lambda key, **bounds: edge.FieldCondition(key, range=edge.RangeDateTime(**bounds)),
    missing=lambda key: edge.IsEmptyCondition(key),
    filter=lambda **parts: edge.Filter(**parts),
)


def filter_of(expression: Expression | None, fields: Mapping[str, Field]) -> edge.Filter | None:
    if expression is None:
        return None
    dates = frozenset(name for name, field in fields.items() if field.type is FieldType.DATE)
    made: edge.Filter = translate(expression, _FILTERS, dates)
    return made


def pack(payload: Payload) -> dict[str, Any]:
    return {name: _packed(value) for name, value in payload.items()}


def unpack(payload: Mapping[str, Any] | None, facts: IndexFacts) -> Payload:
    found = in_order(payload or {}, facts.all_fields)
    for name in facts.booleans:
        if name in found:
            found[name] = _boolean(found[name])
    return found


def unpacked(value: Any, field: Field | None) -> Any:
    """One value. field: the one that it is of."""
    return _boolean(value) if field is not None and field.type is FieldType.BOOLEAN else value


def _boolean(value: Any) -> Any:
    return [part == "true" for part in value] if isinstance(value, list) else value == "true"


def _packed(value: Value) -> Any:
    if isinstance(value, list):
        return [_packed(part) for part in value]
    return _BOOLEANS[value] if isinstance(value, bool) else value
