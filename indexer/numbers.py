"""Numbers as people and spreadsheets write them -> numbers as Python reads them."""

from __future__ import annotations

import re

# What may stand between groups of three digits; an apostrophe is Swiss, white space French.
_GROUPS = {".": r"[, '\u2019]", ",": r"[. '\u2019]"}
# A whole number that a spreadsheet or a data frame wrote as one with decimals, as they do where cells are missing.
_WHOLE = re.compile(r"([+-]?[0-9]+)[.,]0+")
_SCIENTIFIC = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?[eE][+-]?[0-9]+")


def plain(text: str, decimal: str) -> str:
    """The number with a point and without groups of three digits; a text that is no number, as it is.

    decimal: the mark before decimals, "." or ",". Text is tidy. Raises ValueError for a number with the other mark.
    """
    mark = re.escape(decimal)
    grouped = rf"[1-9][0-9]{{0,2}}(?P<group>{_GROUPS[decimal]})[0-9]{{3}}((?P=group)[0-9]{{3}})*"
    if not re.fullmatch(rf"[+-]?(?:{grouped}|[0-9]*)({mark}[0-9]*)?([eE][+-]?[0-9]+)?", text):
        if decimal == "," and "." in text:
            raise ValueError("is no number with a decimal comma")  # 12.5 is neither 12,5 nor 125 for certain
        return text
    return re.sub(_GROUPS[decimal], "", text).replace(decimal, ".")


def whole(text: str) -> str:
    """``4711`` for ``4711.0`` and for ``4.711E+03``; any other text as it is."""
    if found := _WHOLE.fullmatch(text):
        return found[1]
    if is_scientific(text):
        number = float(text.replace(",", "."))
        if number.is_integer() and abs(number) < 2**53:
            return str(int(number))
    return text


def is_scientific(text: str) -> bool:
    """Whether a number is written as ``1E+05``: of a record number so written, digits may be lost."""
    return _SCIENTIFIC.fullmatch(text) is not None
