"""How often ``mentions`` is right about what a note affirms: ``python -m benchmarks.negation``, part of make bench.

Against 100 sentences of the clinical notes of covid-chestxray, drawn with seed 0 from those that name a finding: 60
with a word that often denies and 40 without. What each affirms was decided by reading, before anything was run.
benchmarks/negation.csv has the decisions, the sentences by their sha256, since the notes are not ours to copy.
"""

from __future__ import annotations

import csv
import hashlib
import re
from pathlib import Path

from cxrsearch.clinical.expression import words
from cxrsearch.statistics import wilson
from indexer import negation

DECIDED = Path(__file__).with_suffix(".csv")
NOTES = Path(__file__).parent.parent.parent / "shared" / "data" / "covid-chestxray" / "metadata.csv"


def measure(folder: Path) -> str:
    """The section of docs/reference/benchmarks.md. folder: not used, nothing is written."""
    answers = [(found, affirmed) for _, _, found, affirmed in _judged()]
    hits = [affirmed for found, affirmed in answers if found]
    lines = [
        ("denied findings that `mentions` leaves out", [not found for found, affirmed in answers if not affirmed]),
        ("affirmed findings that it finds", [found for found, affirmed in answers if affirmed]),
        ("what it finds is affirmed", hits),
        ("what `contains` finds is affirmed", [affirmed for _, affirmed in answers]),
    ]
    table = "\n".join(f"| {what} | {_share(right)} | {len(right)} |" for what, right in lines)
    return f"""\
## What notes affirm

`python -m benchmarks.negation` (no chance in it; 100 sentences of the notes of covid-chestxray, drawn with seed 0 and
read by hand before anything was run: 60 with a word that often denies, 40 without)

| | right | of |
|---|---|---|
{table}

Most of what it does not leave out is of the kind "resolution of the opacities". The terms are negspaCy's clinical ones
and some of ours, chosen before the sentences were run (`indexer/negation.py`).
"""


def _judged() -> list[tuple[str, str, bool, bool]]:
    """Sentence, word, whether ``mentions`` finds it there, whether it is affirmed there."""
    sentences = _sentences(NOTES)
    with DECIDED.open(encoding="utf-8", newline="") as table:
        decided = [(sentences[row["sentence"]], row["word"], row["affirmed"] == "yes") for row in csv.DictReader(table)]
    return [(text, word, word in words(str(negation.affirmed(text))), affirmed) for text, word, affirmed in decided]


def _share(right: list[bool]) -> str:
    low, high = wilson(sum(right), len(right))
    return f"{sum(right)}, {sum(right) / len(right):.1%} ({low:.1%} to {high:.1%})"


def _sentences(table: Path) -> dict[str, str]:
    """By the beginning of their sha256."""
    with table.open(encoding="utf-8", newline="") as rows:
        notes = [row["clinical_notes"] or "" for row in csv.DictReader(rows)]
    found = (" ".join(one.split()) for note in notes for one in re.split(r"(?<=[.;!?])\s+|\n", note))
    return {hashlib.sha256(one.encode()).hexdigest()[:16]: one for one in found}


if __name__ == "__main__":
    print(measure(NOTES))
    for text, word, found, affirmed in _judged():
        if found is not affirmed:
            print(f"wrong: {word} is {'affirmed' if affirmed else 'denied'} in: {text[:120]}")
