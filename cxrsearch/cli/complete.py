"""What the shell offers for fields and values, from the index that the command line names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxrsearch.store.contract import VectorStore

# A shell shows no more in one go.
_MOST = 200
# A shell puts what is offered into its line as it is: a value of a stranger's index must not be a command there.
_RUNS = re.compile(r"[$`!;&|<>\\'\x00-\x1f\x7f]")
_AFTER_FIELD = ("=", "in (", "contains", "mentions", "is missing", "is not missing")


def field_names(ctx: Any, incomplete: str) -> list[str]:
    """The index's fields."""
    return _asked(ctx, lambda store: [name for name in store.facts.all_fields if name.startswith(incomplete)])


def where_words(ctx: Any, incomplete: str) -> list[str]:
    """An expression so far, with each word that may come next: a field, what may follow one, or one of its values."""
    return _asked(ctx, lambda store: _next(store, incomplete))


def _next(store: VectorStore, text: str) -> list[str]:
    from cxrsearch.clinical.fields import FieldType

    fields = store.facts.all_fields
    if value := re.search(r"""(\w+)\s*(?:!=|=|in\s*\((?:[^()]*,)?)\s*(["']?)([^"']*)$""", text):
        name, quote, begun = value.groups()
        field = fields.get(name)
        if field is None or field.type not in (FieldType.KEYWORD, FieldType.BOOLEAN):
            return []
        head = text[: value.start(2)]
        if field.type is FieldType.BOOLEAN:
            return [head + word for word in ("true", "false") if word.startswith(begun)]
        mark = quote or '"'
        known = [v for v in map(str, store.values(name)) if v.casefold().startswith(begun.casefold())]
        return [f"{head}{mark}{v.replace(mark, mark * 2)}{mark}" for v in known[:_MOST]]
    if (before := re.search(r"(\w+)\s+$", text)) and before.group(1) in fields:
        return [text + word for word in _AFTER_FIELD]
    word = re.search(r"\w*$", text)
    head, begun = (text[: word.start()], word.group()) if word else (text, "")
    return [head + name for name in [*fields, "not", "and", "or"] if name.startswith(begun)]


def _asked(ctx: Any, ask: Any) -> list[str]:
    """Nothing where there is no index to ask: a shell has no place for an error."""
    from cxrsearch import settings
    from cxrsearch.errors import CxrSearchError
    from cxrsearch.store import open_store

    try:
        address = ctx.params.get("index") or settings.given("index").value
        if not address:
            return []
        with open_store(str(address)) as store:
            return [word for word in ask(store) if not _RUNS.search(word)]
    except CxrSearchError:
        return []
