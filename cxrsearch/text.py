"""Text that other people wrote, made safe to show; and the word somebody may have meant."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Without width: soft hyphen, joiners, marks of direction, byte order marks, tags.
_INVISIBLE = re.compile(r"[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]+")
_HALVES = re.compile(r"[\ud800-\udfff]")


def clean(text: str) -> str:
    """Unicode NFC, controls turned to a space, what has no width and outer white space removed, halves of a
    character (from names that are no UTF-8) replaced. What is clean stays as it is."""
    text = _HALVES.sub("\ufffd", unicodedata.normalize("NFC", _INVISIBLE.sub("", text)))
    return _CONTROLS.sub(" ", text).strip()


def tidy(text: str) -> str:
    """One text of all that look the same: :func:`clean`, and any white space (non-breaking, doubled) one space.

    Cells, words of a mapping and values of --where go through it, so that they meet."""
    return " ".join(clean(text).split())


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?`` with the closest known word, or an empty string."""
    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean {by_folded[close[0]]!r}?" if close else ""
