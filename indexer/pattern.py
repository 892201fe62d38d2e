"""Regular expressions of a mapping, under a time limit: a sane one takes microseconds, an unlucky one years."""

from __future__ import annotations

import regex

from cxrsearch.errors import MappingError

_SECONDS = 2.0


def part_of(pattern: str, text: str) -> str:
    """What the pattern finds: its first group where it has one; empty where it finds nothing. Raises MappingError."""
    try:
        found = regex.search(pattern, text, timeout=_SECONDS)
    except TimeoutError:
        raise MappingError(f"pattern {pattern!r}: takes more than {_SECONDS:g} s; make it simpler") from None
    return "" if found is None else found.group(1 if found.re.groups else 0) or ""
