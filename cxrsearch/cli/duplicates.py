"""cxrsearch duplicates: list images that an index holds twice."""

from __future__ import annotations

import logging
from typing import Any

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import Index, Output
from cxrsearch.report.rows import Format, write


def duplicates(index: Index, format: Output = Format.TABLE) -> None:
    """List pairs of nearly identical images. Pairs of two different patients come first.

    Example: cxrsearch duplicates --index chest
    """
    from collections import Counter

    from cxrsearch.cohort.duplicates import pairs
    from cxrsearch.imaging.perceptual_hash import BITS
    from cxrsearch.store import graph, open_store

    with open_store(index) as store:
        found, unseen, by = pairs(store)
    if unseen:
        logging.getLogger(LOGGER).warning(
            f"{unseen} images have no picture here and were compared with nothing; index them again, with thumbnails"
        )
    rows: list[dict[str, Any]] = []
    for pair in found:
        row: dict[str, Any] = {"kind": pair.kind, "bits": pair.bits, "score": round(pair.score, 4)}
        for number, payload in enumerate((pair.first, pair.second), start=1):
            row |= {f"{name} {number}": payload.get(name) for name in ("dataset", "path", "patient", "site")}
        rows.append(row)
    whole = {"search": graph.as_json(by), "without_picture": unseen, "pairs": rows}
    sides = [f"{name} {number}" for number in (1, 2) for name in ("dataset", "path", "patient", "site")]
    write(rows, ["kind", "bits", "score", *sides], format, whole=whole)
    if format is Format.TABLE:
        kinds = Counter(pair.kind for pair in found)
        print("; ".join(f"{number} of {kind}" for kind, number in kinds.items()) or "no pair is near-identical")
        if by is not None:
            print(f"each image's nearest were {graph.found_words(by)}: a pair that it missed is not listed")
        print(f"bits: of {BITS} of the perceptual hashes, how many differ")
