"""An audit -> JSON, and one HTML page with the pairs as pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch.imaging.perceptual_hash import BITS
from cxrsearch.report import page
from trainer.audit.audit import Audit
from trainer.data.patients import NearDuplicate

# Pairs shown of each kind; a page of thousands of pictures helps nobody.
_SHOWN = 24


def as_json(audit: Audit, paths: bool) -> dict[str, Any]:
    """Everything that was found. ``paths``: name files, which may name patients."""
    return {
        "images": len(audit.images),
        "unreadable": audit.unreadable,
        "label": audit.label,
        "site": audit.site,
        "risks": [{**asdict(risk), "verdict": risk.verdict} for risk in audit.risks],
        "patients_in_several_classes": len(audit.several_classes),
        "patients_in_several_sites": len(audit.several_sites),
        "exact_duplicates": [[_named(audit, n, paths) for n in numbers] for numbers in audit.exact],
        "near_duplicates": [
            {"kind": kind, "bits": pair.bits, "images": [_named(audit, n, paths) for n in (pair.first, pair.second)]}
            for kind, pairs in audit.by_kind().items()
            for pair in pairs
        ],
        "label_by_site": audit.by_site,
        "shortcuts": [asdict(shortcut) for shortcut in audit.shortcuts],
        "known": audit.known,
    }


def write(path: Path, audit: Audit, command: str, paths: bool) -> None:
    counts: dict[str, int] = {}
    for row in audit.by_site.values():
        for site, number in row.items():
            counts[site] = counts.get(site, 0) + number
    page.write(
        path,
        "audit",
        title=f"Audit of {', '.join(dict.fromkeys(audit.images.datasets))}",
        audit=audit,
        command=command,
        sites=sorted(counts, key=lambda site: -counts[site]),
        classes=[name for name in audit.images.classes if any(name in row for row in audit.known.values())],
        bits=BITS,
        pairs=[
            {"kind": kind, "number": len(pairs), "shown": [_shown(audit, pair, paths) for pair in pairs[:_SHOWN]]}
            for kind, pairs in audit.by_kind().items()
        ],
    )


def _shown(audit: Audit, pair: NearDuplicate, paths: bool) -> dict[str, Any]:
    return {"bits": pair.bits, "images": [_picture(audit, number, paths) for number in (pair.first, pair.second)]}


def _picture(audit: Audit, number: int, paths: bool) -> dict[str, Any]:
    images = audit.images.part(np.array([number]))
    label = images.classes[int(images.labels[0])] if images.labels[0] >= 0 else "no class"
    return {
        "picture": page.jpeg_uri(images.pixels[0][images.content()[0]]),
        "words": f"{_named(audit, number, paths)}, {label}",
    }


def _named(audit: Audit, number: int, paths: bool) -> str:
    """An image by its dataset and its place in it, counted from 1 as the dataset lists them."""
    name = audit.images.datasets[number]
    return (
        f"{name} {audit.images.keys[number]}"
        if paths
        else f"{name} image {number - audit.images.datasets.index(name) + 1}"
    )
