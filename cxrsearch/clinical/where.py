"""The --where language: text -> expression tree, with errors that point at the place.

    site = "Melbourne, Australia" and age >= 60 and not icu = true and notes contains "intubated"

Parsed by lark: it gives the position and what was expected there, and imports in 0.06 s. Precedence is SQL's
(not, then and, then or). ``!=`` and ``not in`` are true when the field has a value and none of its values is listed;
what the other comparisons mean is said in expression.py.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Protocol

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from cxrsearch.clinical.expression import (
    And,
    Compare,
    Contains,
    Equals,
    Expression,
    Mentions,
    Missing,
    Not,
    Or,
    words,
)
from cxrsearch.clinical.fields import AFFIRMED, Field, FieldType, Scalar
from cxrsearch.errors import WhereError
from cxrsearch.text import clean, nearest, tidy

MAX_LENGTH = 10_000
MAX_DEPTH = 50
_GRAMMAR = r"""
?start: either
?either: both (OR both)*
?both: unary (AND unary)*
?unary: NOT unary -> negation
      | "(" either ")"
      | comparison
?comparison: NAME OPERATOR literal                     -> compare
      | NAME IN "(" literal ("," literal)* ")"          -> listed
      | NAME NOT IN "(" literal ("," literal)* ")"      -> unlisted
      | NAME CONTAINS literal                           -> contains
      | NAME MENTIONS literal                           -> mentions
      | NAME IS MISSING                                 -> missing
      | NAME IS NOT MISSING                             -> present
literal: STRING | DATE | NUMBER | NAME
OPERATOR: "!=" | "<=" | ">=" | "=" | "<" | ">"
AND.2: /and\b/i
OR.2: /or\b/i
NOT.2: /not\b/i
IN.2: /in\b/i
IS.2: /is\b/i
CONTAINS.2: /contains\b/i
MENTIONS.2: /mentions\b/i
MISSING.2: /missing\b/i
NAME: /[A-Za-z_][A-Za-z0-9_]*/
DATE.3: /\d{4}-\d{2}-\d{2}\b/
NUMBER.2: /[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?/
STRING: /"([^"]|"")*"|'([^']|'')*'/
%ignore /\s+/
"""


class Vocabulary(Protocol):
    """What an index can tell of its values, so that a misspelt one is noticed."""

    def count(self, expression: Expression | None = None) -> int: ...
    def values(self, field: str) -> Mapping[Scalar, int]: ...


def parse(
    text: str, fields: Mapping[str, Field], vocabulary: Vocabulary | None = None, option: str = "--where"
) -> Expression:
    """The expression tree of ``text`` over ``fields``. ``option``: what messages call it.

    With a ``vocabulary``, a keyword compared with ``=``, ``!=`` or ``in`` has to be one that occurs: a
    misspelt value would otherwise silently match nothing, or with ``!=`` everything.
    Raises WhereError.
    """
    if len(text) > MAX_LENGTH:
        raise WhereError(text, MAX_LENGTH, f"longer than {MAX_LENGTH} characters", option)
    try:
        tree = _parser().parse(text)
    except UnexpectedToken as error:
        at_end = error.token.type == "$END"
        position = len(text.rstrip()) if at_end else (error.token.start_pos or 0)
        what = "unexpected end" if at_end else f"unexpected {_short(str(error.token))}"
        wanted = _hint(text, position) or f"; expected {_expected(error.accepts or error.expected)}"
        raise WhereError(text, position, what + wanted, option) from None
    except UnexpectedCharacters as error:
        position = error.pos_in_stream or 0
        mark = text[position]
        what = "this quote is never closed" if mark in "\"'" else f"unexpected {mark!r}"
        raise WhereError(text, position, what + _hint(text, position), option) from None
    except UnexpectedInput:
        raise WhereError(text, 0, "cannot be understood", option) from None
    _check_depth(text, tree, option)
    return _Builder(text, fields, vocabulary, option).build(tree)


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False, propagate_positions=True)


def _check_depth(text: str, tree: Tree[Token], option: str) -> None:
    """Nested at most MAX_DEPTH deep: no expression of a person is deeper, an attack's might be."""
    level: list[Tree[Token]] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in node.children if isinstance(child, Tree)]
        if not level:
            return
    raise WhereError(text, level[0].meta.start_pos, f"nested more than {MAX_DEPTH} deep", option)


_WORDS = {
    "OPERATOR": "=, !=, <, <=, > or >=",
    "NAME": "a field",
    "STRING": "a value",
    "NUMBER": "a value",
    "DATE": "a value",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": "a comma",
    "$END": "the end",
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "IN": "in",
    "IS": "is",
    "CONTAINS": "contains",
    "MENTIONS": "mentions",
    "MISSING": "missing",
}


# What people write who know another language, and how it is said in this one.
_HINTS = (
    (r"(not\s+)?between\b", "write age >= 40 and age <= 60 for a range"),
    (r"i?like\b", 'write notes contains "word"; it finds whole words'),
    (r"(null|none|nan)\b", "write is missing or is not missing"),
    (r"==", "write = once"),
    (r"<>|!(?!=)", "write != or not"),
    (r"&&?|\|\|?", "write and, or"),
    (r"[\u2018-\u201f\u00ab\u00bb]", "write straight quotes, \" or '"),
    (r"\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d{4}/\d{1,2}/\d{1,2}", "write a date as 2020-02-01, the year first"),
    (r"\d+,\d+", "write a decimal point: 38.5"),
)


def _hint(text: str, position: int) -> str:
    """What to write instead, where something of another language stands at a place; else nothing."""
    for pattern, hint in _HINTS:
        if any(found.start() <= position < found.end() for found in re.finditer(pattern, text, re.IGNORECASE)):
            return f"; {hint}"
    return ""


def _expected(tokens: Collection[str]) -> str:
    names = {_WORDS.get(token, token) for token in tokens}
    if "a value" in names:
        names.discard("a field")
    return ", ".join(sorted(names))


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:27] + "...")


class _Builder:
    """Walks the parse tree, checking each comparison against the field it names."""

    def __init__(self, text: str, fields: Mapping[str, Field], vocabulary: Vocabulary | None, option: str) -> None:
        self.text, self.fields, self.vocabulary, self.option = text, fields, vocabulary, option

    def build(self, tree: Tree[Token]) -> Expression:
        if tree.data in ("either", "both"):
            parts = tuple(self.build(child) for child in tree.children if isinstance(child, Tree))
            return Or(parts) if tree.data == "either" else And(parts)
        if tree.data == "negation":
            (inner,) = (child for child in tree.children if isinstance(child, Tree))
            return Not(self.build(inner))
        name = tree.children[0]
        assert isinstance(name, Token)
        field = self._field(name)
        literals = [child.children[0] for child in tree.children if isinstance(child, Tree)]
        match tree.data:
            case "missing":
                return Missing(field.name)
            case "present":
                return Not(Missing(field.name))
            case "contains":
                return Contains(field.name, self._words(field, literals[0], "contains"))
            case "mentions":
                return self._mentions(field, literals[0])
            case "listed":
                return self._equals(field, literals)
            case "unlisted":
                return And((Not(Missing(field.name)), Not(self._equals(field, literals))))
        operator, literal = str(tree.children[1]), literals[0]
        if operator == "=":
            return self._equals(field, [literal])
        if operator == "!=":
            return And((Not(Missing(field.name)), Not(self._equals(field, [literal]))))
        return self._ordered(field, operator, literal)

    def _field(self, name: Token) -> Field:
        field = self.fields.get(str(name))
        if field is None:
            near = nearest(str(name), self.fields) or f" Fields: {', '.join(sorted(self.fields))}."
            raise self._error(name, f"no field {_short(str(name))}.{near}")
        return field

    def _equals(self, field: Field, literals: list[Token | Tree[Token]]) -> Expression:
        values = []
        for literal in literals:
            assert isinstance(literal, Token)
            if field.type is FieldType.TEXT:
                raise self._error(literal, f"{field.name} is text: use {field.name} contains ...")
            value = self._value(field, literal)
            if field.type is FieldType.KEYWORD and self.vocabulary is not None:
                self._check_known(field, value, literal)
            values.append(value)
        return Equals(field.name, tuple(dict.fromkeys(values)))

    def _check_known(self, field: Field, value: Scalar, literal: Token) -> None:
        assert self.vocabulary is not None
        if not self.vocabulary.count(Equals(field.name, (value,))):
            near = nearest(str(value), map(str, self.vocabulary.values(field.name)))
            raise self._error(literal, f"no image has {field.name} = {_short(str(value))}.{near}")

    def _ordered(self, field: Field, operator: str, literal: Token | Tree[Token]) -> Expression:
        assert isinstance(literal, Token)
        if field.type not in (FieldType.INTEGER, FieldType.FLOAT, FieldType.DATE):
            raise self._error(literal, f"{field.name} is a {field.type}: it has no order, use =, != or in")
        value = self._value(field, literal)
        assert operator in ("<", "<=", ">", ">=")
        return Compare(field.name, operator, value if isinstance(value, str) else float(value))  # type: ignore[arg-type]

    def _mentions(self, field: Field, literal: Token | Tree[Token]) -> Expression:
        assert isinstance(literal, Token)
        if field.type is not FieldType.TEXT:
            raise self._error(literal, f"{field.name} is a {field.type}: mentions is for text fields")
        text = self._words(field, literal, "mentions")
        unread = And((Not(Missing(field.name)), Missing(AFFIRMED + field.name)))
        if self.vocabulary is not None and (number := self.vocabulary.count(unread)):
            raise self._error(
                literal,
                f'of {number} images it is not known what {field.name} denies: index them again with language = "en" in'
                " the mapping where cxrsearch[notes] is installed, or use contains",
            )
        return Mentions(field.name, text)

    def _words(self, field: Field, literal: Token | Tree[Token], operator: str) -> str:
        assert isinstance(literal, Token)
        if field.type not in (FieldType.TEXT, FieldType.KEYWORD):
            raise self._error(literal, f"{field.name} is a {field.type}: {operator} is for text and keyword fields")
        if literal.type != "STRING":
            raise self._error(literal, "expected a text in quotes")
        text = tidy(_unquote(literal))
        if not words(text):
            raise self._error(literal, "this text holds no word to look for")
        return text

    def _value(self, field: Field, literal: Token) -> Scalar:
        text = str(literal)
        if literal.type == "NAME" and text.lower() in ("null", "none", "nan"):
            raise self._error(literal, f"write {field.name} is missing, or {field.name} is not missing")
        match field.type:
            case FieldType.BOOLEAN:
                if literal.type == "NAME" and text.lower() in ("true", "false"):
                    return text.lower() == "true"
                raise self._error(literal, f"{field.name} is true or false (without quotes)")
            case FieldType.INTEGER | FieldType.FLOAT:
                if literal.type != "NUMBER" or not math.isfinite(float(text)):
                    raise self._error(literal, f"{field.name} is a number, {_short(text)} is not")
                return float(text)
            case FieldType.DATE:
                try:
                    return datetime.date.fromisoformat(_unquote(literal)).isoformat()
                except ValueError:
                    raise self._error(literal, f"{field.name} is a date: write it as 2020-03-31") from None
        if literal.type != "STRING":
            raise self._error(
                literal, f'{field.name} is a keyword: write its value in quotes, as in {field.name} = "..."'
            )
        # A path is kept as it is, so that its file can be opened.
        return clean(_unquote(literal)) if field.name == "path" else tidy(_unquote(literal))

    def _error(self, token: Token, message: str) -> WhereError:
        return WhereError(self.text, token.start_pos or 0, message, self.option)


def _unquote(literal: Token) -> str:
    text = str(literal)
    if literal.type != "STRING":
        return text
    return text[1:-1].replace(text[0] * 2, text[0])
