"""What an image has to meet: the tree that ``--where`` is parsed into, and that stores translate for their engine.

* a comparison is true for an image when one of the field's values meets it; a missing field meets none;
* ``Not(X)`` is true exactly where X is not, also where the field is missing: X and ``Not(X)`` add up to all;
* ``Contains`` is true when every word of its text occurs in the field as a whole word, in any case;
* ``Mentions`` is true when every word of its text occurs in the field where it is not denied ("no effusion").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxrsearch.clinical.fields import Scalar


@dataclass(frozen=True)
class Equals:
    """One of the field's values is one of ``values``."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Compare:
    """One of the field's values is below, above, ... ``value``: a number, or a date as YYYY-MM-DD."""

    field: str
    operator: Literal["<", "<=", ">", ">="]
    value: float | str


@dataclass(frozen=True)
class Contains:
    """Every word of ``text`` occurs in one value of the field."""

    field: str
    text: str


@dataclass(frozen=True)
class Mentions:
    """Every word of ``text`` occurs in one value of the field, and is affirmed there."""

    field: str
    text: str


@dataclass(frozen=True)
class Missing:
    field: str


@dataclass(frozen=True)
class Not:
    part: Expression


@dataclass(frozen=True)
class And:
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Expression, ...]


Expression = Equals | Compare | Contains | Mentions | Missing | Not | And | Or


def both(first: Expression | None, second: Expression | None) -> Expression | None:
    """What meets the two of them; None where neither is given."""
    if first is None or second is None:
        return second if first is None else first
    return And((first, second))


def named(expression: Expression | None) -> list[str]:
    """The fields that an expression is about, each once, in its order."""
    match expression:
        case None:
            return []
        case Not(part):
            return named(part)
        case And(parts) | Or(parts):
            return list(dict.fromkeys(name for part in parts for name in named(part)))
        case _:
            return [expression.field]


# A run of letters and digits.
WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text as ``contains`` sees them, in small letters."""
    return [word.lower() for word in WORD.findall(text)]
