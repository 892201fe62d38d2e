"""An evaluation -> the rows of a table, and one HTML page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch.report import page
from trainer import plots
from trainer.data.images import Images
from trainer.evaluation.evaluate import ENCODER, Evaluation
from trainer.metrics import retrieval as metrics

COLUMNS = {
    "vote_accuracy": "vote",
    "precision_at_1": "P@1",
    "precision_at_5": "P@5",
    "precision_at_10": "P@10",
    "hit_rate_at_5": "hit-rate@5",
    "map_at_10": "mAP@10",
    "r_precision": "R-prec.",
    "map_at_r": "MAP@R",
    "macro_sensitivity": "sens.",
    "macro_ppv": "PPV",
    "macro_auc": "AUC",
}
WORDS = {
    "archive": (
        "Gallery: the archive",
        "Unseen images are looked up among the images that were learnt from, as in use.",
    ),
    "unseen": (
        "Gallery: unseen images",
        "Unseen images are looked up among the other unseen ones: nothing was learnt from either.",
    ),
}
# Rows of pictures, best and worst each, and neighbours in a row.
_ROWS, _HITS = 6, 6


def rows(evaluation: Evaluation, gallery: str) -> list[dict[str, Any]]:
    """A row for the encoder and each floor: the figures by the names of ``COLUMNS``, with intervals."""
    found = []
    for method in evaluation.retrievals[gallery]:
        figures = evaluation.figures(gallery, method)
        row: dict[str, Any] = {"method": method}
        row |= {COLUMNS[name]: figures[name] for name in COLUMNS if name in figures}
        found.append(row)
    return found


def write(path: Path, evaluation: Evaluation, images: Images, map_of: bytes, command: str, seed: int) -> None:
    """The page. ``map_of``: the embedding map, as PNG."""
    page.write(
        path,
        "evaluation",
        title=f"How well {evaluation.name} finds its like",
        protocol=evaluation.protocol,
        facts=evaluation.facts,
        leakage=evaluation.leakage,
        command=command,
        seed=seed,
        map=page.png_uri(map_of),
        galleries=[_gallery(evaluation, gallery) for gallery in evaluation.retrievals],
        pictures=_pictures(evaluation, images),
    )


def _gallery(evaluation: Evaluation, gallery: str) -> dict[str, Any]:
    own = evaluation.retrievals[gallery][ENCODER]
    figures = evaluation.figures(gallery, ENCODER)
    counts = np.zeros((len(own.classes), len(own.classes)), dtype=np.int64)
    np.add.at(counts, (own.labels, own.predicted), 1)
    title, words = WORDS[gallery]
    return {
        "title": title,
        "words": words,
        "columns": list(COLUMNS.values()),
        "rows": [
            {"method": row["method"], "figures": [row.get(name) for name in COLUMNS.values()]}
            for row in rows(evaluation, gallery)
        ],
        "classes": [
            {"name": name, "figures": [figures[f"{kind}/{name}"] for kind in ("sensitivity", "ppv", "auc")]}
            for name in own.classes
        ],
        "confusion": page.png_uri(plots.confusion(counts, own.classes)),
        "reliability": page.png_uri(plots.reliability(*metrics.calibration(own))),
    }


def _pictures(evaluation: Evaluation, images: Images) -> list[dict[str, Any]]:
    """Queries with the most and the least neighbours of their own class, in the archive where there is one."""
    gallery = next(iter(evaluation.retrievals))
    own = evaluation.retrievals[gallery][ENCODER]
    right = np.nan_to_num(own.values["precision_at_10"], nan=0.5) + 1e-3 * own.scores[:, 0]
    order = np.argsort(-right, kind="stable")
    blocks = {
        "Best: neighbours of the query's own class": _spread(own.labels, order),
        "Worst: neighbours of another class": _spread(own.labels, order[::-1]),
    }
    return [
        {"title": title, "rows": [_row(evaluation, images, gallery, q) for q in chosen]}
        for title, chosen in blocks.items()
    ]


def _spread(labels: Any, order: Any) -> list[int]:
    """The first queries of an order, each class in turn."""
    queues = [[int(q) for q in order if labels[q] == c] for c in sorted(set(labels.tolist()))]
    turns = [queue[n] for n in range(_ROWS) for queue in queues if n < len(queue)]
    return turns[:_ROWS]


def _row(evaluation: Evaluation, images: Images, gallery: str, query: int) -> dict[str, Any]:
    number = int(evaluation.queries[query])
    scores = evaluation.retrievals[gallery][ENCODER].scores[query]
    hits = evaluation.neighbours(gallery, query)[:_HITS]
    return {
        "query": _shown(images, number),
        "hits": [
            {**_shown(images, int(hit)), "score": float(score), "right": images.labels[hit] == images.labels[number]}
            for hit, score in zip(hits, scores, strict=False)
        ],
    }


def _shown(images: Images, number: int) -> dict[str, Any]:
    """No name, no patient: a picture and its class."""
    part = images.part(np.array([number]))
    return {
        "picture": page.jpeg_uri(part.pixels[0][part.content()[0]]),
        "label": images.classes[int(images.labels[number])],
    }
