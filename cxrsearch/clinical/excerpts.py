"""The words around what ``contains`` was looking for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cxrsearch.clinical.expression import And, Contains, Expression, Mentions, Or, words
from cxrsearch.clinical.fields import Payload, values_of

# Characters shown before the first and after the last word that was found.
_AROUND = 60
# A text as (piece, whether it is one of the words looked for).
Excerpt = tuple[tuple[str, bool], ...]


def searched_words(expression: Expression | None) -> dict[str, frozenset[str]]:
    """The words that ``contains`` and ``mentions`` look for, by field; under ``not`` nothing is shown."""
    found: dict[str, frozenset[str]] = {}
    match expression:
        case Contains(field, text) | Mentions(field, text):
            found[field] = frozenset(words(text))
        case And(parts) | Or(parts):
            for part in parts:
                for field, more in searched_words(part).items():
                    found[field] = found.get(field, frozenset()) | more
    return found


def excerpts(payload: Payload, words_by_field: Mapping[str, frozenset[str]]) -> dict[str, Excerpt]:
    """Of each field that was looked in and where something was found."""
    made = {
        name: excerpt(" / ".join(map(str, values_of(payload, name))), among) for name, among in words_by_field.items()
    }
    return {name: one for name, one in made.items() if one}


def excerpt(text: str, searched: frozenset[str]) -> Excerpt:
    """The text from a little before the first of the words to a little after the last near it; empty without any."""
    places = [found.span() for found in re.finditer(r"[^\W_]+", text) if found.group().lower() in searched]
    if not places:
        return ()
    first = places[0]
    shown = [first] + [place for place in places[1:] if place[1] <= first[1] + 2 * _AROUND]
    start, stop = max(0, first[0] - _AROUND), min(len(text), shown[-1][1] + _AROUND)
    pieces: list[tuple[str, bool]] = [("…" if start else "", False)]
    at = start
    for begin, end in shown:
        pieces += [(text[at:begin], False), (text[begin:end], True)]
        at = end
    pieces += [(text[at:stop], False), ("…" if stop < len(text) else "", False)]
    return tuple(piece for piece in pieces if piece[0])


def plain(one: Excerpt) -> str:
    return "".join(piece for piece, _ in one)
