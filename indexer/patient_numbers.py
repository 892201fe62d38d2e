"""What is odd about the numbers in a table's column of patients: numbers that a spreadsheet spoilt make two patients of
one, or one of several, and no search can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrsearch.clinical.identity import whole_number
from cxrsearch.text import tidy
from indexer.mapping import Identifier
from indexer.numbers import is_scientific
from indexer.tables import Line


@dataclass(frozen=True)
class PatientNumbers:
    """Rows, by the file's count.

    scientific: whose number is written as ``1E+05`` is, and taken as it stands.
    unmatched: whose text the mapping's pattern does not take, so that the patient is not known.
    zeros: whose number another row has with more or fewer zeros in front.
    """

    column: str
    scientific: list[int]
    unmatched: list[int]
    zeros: list[int]


def patient_numbers(lines: Sequence[Line], source: Identifier, column: str, missing: frozenset[str]) -> PatientNumbers:
    """Of the rows that are read, by the column that has the patients."""
    scientific, unmatched = set[int](), set[int]()
    written: dict[str, dict[str, list[int]]] = {}
    for line in lines:
        raw = line.cells[column]
        number = source.text(raw, missing)
        if number is None:
            if source.unmatched(raw, missing):
                unmatched.add(line.number)
            continue
        if is_scientific(tidy(raw)):
            scientific.add(line.number)
        number = whole_number(number)
        if number.isdecimal():
            written.setdefault(number.lstrip("0"), {}).setdefault(number, []).append(line.number)
    several = [rows for forms in written.values() if len(forms) > 1 for rows in forms.values()]
    zeros = {row for rows in several for row in rows}
    return PatientNumbers(column, sorted(scientific), sorted(unmatched), sorted(zeros))
