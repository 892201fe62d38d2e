"""Regular expressions of a mapping, under a time limit: a sane one takes microseconds, an unlucky one years.

An index keeps those of its patient numbers, so a stranger's index brings a stranger's.
"""

from __future__ import annotations

from cxrsearch.errors import MappingError

_SECONDS = 2.0


def check(pattern: str) -> None:
    """Raises ValueError for what is no pattern."""
    import regex  # most searches need none

    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from None


def part_of(pattern: str, text: str) -> str:
    """What the pattern finds: its first group where it has one; empty where it finds nothing. Raises MappingError."""
    import regex

    try:
        found = regex.search(pattern, text, timeout=_SECONDS)
    except TimeoutError:
        raise MappingError(f"pattern {pattern!r}: takes more than {_SECONDS:g} s; make it simpler") from None
    return "" if found is None else found.group(1 if found.re.groups else 0) or ""
