"""One expression tree -> the filter of either engine.

qdrant-client and qdrant-edge name and build the same conditions differently; :class:`Engine` is the
list of those constructors, and :func:`translate` the one walk over the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxrsearch.clinical.expression import And, Compare, Contains, Equals, Expression, Mentions, Missing, Not, Or, words
from cxrsearch.clinical.fields import AFFIRMED, Field, FieldType, Scalar

_BOUND = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


@dataclass(frozen=True)
class Engine:
    """Constructors of one engine's conditions; their results are opaque here.

    number and date take a key and one or two of lt, lte, gt, gte.
    """

    match: Callable[[str, str | bool], Any]
    match_any: Callable[[str, Sequence[str]], Any]
    words: Callable[[str, str], Any]
    number: Callable[..., Any]
    date: Callable[..., Any]
    missing: Callable[[str], Any]
    filter: Callable[..., Any]


# As a server takes it, in JSON.
SERVER = Engine(
    match=lambda key, value: {"key": key, "match": {"value": value}},
    match_any=lambda key, values: {"key": key, "match": {"any": list(values)}},
    words=lambda key, text: {"key": key, "match": {"text": text}},
    number=lambda key, **bounds: {"key": key, "range": bounds},
    date=lambda key, **bounds: {"key": key, "range": bounds},
    missing=lambda key: {"is_empty": {"key": key}},
    filter=lambda **parts: parts,
)


def with_values_for_words(
    expression: Expression, fields: Mapping[str, Field], values: Callable[[str], Iterable[Scalar]]
) -> Expression:
    """With the values that have the words in place of each ``Contains`` of a keyword field.

    Servers up to 1.19 know the words of text fields only: of a keyword they would find any piece of the text, in this
    case alone. ``values``: those that a field has in the index.
    """

    def changed(node: Expression) -> Expression:
        match node:
            case And(parts):
                return And(tuple(map(changed, parts)))
            case Or(parts):
                return Or(tuple(map(changed, parts)))
            case Not(part):
                return Not(changed(part))
            case Contains(field, text) if fields[field].type is FieldType.KEYWORD:
                wanted = set(words(text))
                found = tuple(value for value in values(field) if wanted <= set(words(str(value))))
                return Equals(field, found) if found else And((Missing(field), Not(Missing(field))))  # of no image
        return node

    return changed(expression)


def translate(expression: Expression, engine: Engine, dates: frozenset[str]) -> Any:
    """The engine's filter. ``dates``: the names of the fields that are dates."""

    def condition(node: Expression) -> Any:
        match node:
            case And(parts):
                return engine.filter(must=[condition(part) for part in parts])
            case Or(parts):
                return engine.filter(should=[condition(part) for part in parts])
            case Not(part):
                return engine.filter(must_not=[condition(part)])
            case Missing(field):
                return engine.missing(field)
            case Contains(field, text):
                return engine.words(field, text)
            case Mentions(field, text):
                return engine.words(AFFIRMED + field, text)
            case Compare(field, operator, value):
                bound = {_BOUND[operator]: value}
                return engine.date(field, **bound) if field in dates else engine.number(field, **bound)
            case Equals(field, values):
                return equals(field, values)

    def equals(field: str, values: tuple[Scalar, ...]) -> Any:
        if len(values) > 1 and field not in dates and all(isinstance(value, str) for value in values):
            return engine.match_any(field, [str(value) for value in values])
        if len(values) == 1:  # as it is: Edge takes ten times as long for a filter in a filter as for a condition
            return equal(field, values[0])
        return engine.filter(should=[equal(field, value) for value in values])

    def equal(field: str, value: Scalar) -> Any:
        if field in dates:
            return engine.date(field, gte=value, lte=value)
        if isinstance(value, str | bool):
            return engine.match(field, value)
        return engine.number(field, gte=value, lte=value)

    node = condition(expression)
    return node if isinstance(expression, And | Or | Not) else engine.filter(must=[node])
