"""Text that other people wrote, made safe to show; and the word somebody may have meant."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def clean(text: str) -> str:
    """Unicode NFC, control characters turned to a space, outer white space removed."""
    return _CONTROLS.sub(" ", unicodedata.normalize("NFC", text)).strip()


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?`` with the closest known word, or an empty string."""
    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean {by_folded[close[0]]!r}?" if close else ""
