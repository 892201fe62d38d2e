"""An evaluation -> the rows of a table, and one HTML page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch.report import page
from trainer import plots
from trainer.data.images import Images
from trainer.evaluation.judge import ENCODER, Evaluation
from trainer.metrics import retrieval as metrics
from trainer.metrics.retrieval import Retrieval

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
# Where an image may have several findings: means over the findings.
FINDING_COLUMNS = {"auc": "AUC", "precision_at_10": "P@10", "map": "mAP", "ndcg_at_10": "nDCG@10"}
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
    """A row for the encoder and each baseline: the figures by the names of ``columns``, with intervals."""
    found = []
    for method in evaluation.retrievals[gallery]:
        figures = evaluation.figures(gallery, method)
        row: dict[str, Any] = {"method": method}
        row |= {words: figures[name] for name, words in columns(evaluation).items() if name in figures}
        found.append(row)
    return found


def columns(evaluation: Evaluation) -> dict[str, str]:
    """Figures of a table, and what each is headed by."""
    own = next(iter(evaluation.retrievals.values()))[ENCODER]
    return COLUMNS if isinstance(own, Retrieval) else FINDING_COLUMNS


def write(path: Path, evaluation: Evaluation, images: Images, map_of: bytes, command: str, seed: int) -> None:
    """The page. ``map_of``: the embedding map, as PNG."""
    page.write(
        path,
        "evaluation",
        title=f"Retrieval quality of {evaluation.name}",
        protocol=evaluation.protocol,
        facts=evaluation.facts,
        leakage=evaluation.leakage,
        command=command,
        seed=seed,
        map=page.png_uri(map_of),
        galleries=[_gallery(evaluation, gallery) for gallery in evaluation.retrievals],
        sources=[_source(evaluation, source) for source in evaluation.by_source],
        pictures=_pictures(evaluation, images) if images.exclusive else [],
    )


def _gallery(evaluation: Evaluation, gallery: str) -> dict[str, Any]:
    own = evaluation.retrievals[gallery][ENCODER]
    figures = evaluation.figures(gallery, ENCODER)
    title, words = WORDS[gallery]
    table = {
        "title": title,
        "words": words,
        "columns": list(columns(evaluation).values()),
        "rows": [
            {"method": row["method"], "figures": [row.get(name) for name in columns(evaluation).values()]}
            for row in rows(evaluation, gallery)
        ],
    }
    if not isinstance(own, Retrieval):
        areas = [
            {"name": name, "figures": [figures[f"auc/{name}"]]} for name in own.findings if f"auc/{name}" in figures
        ]
        return table | {"classes": areas, "headings": ["AUC"]}
    counts = np.zeros((len(own.classes), len(own.classes)), dtype=np.int64)
    np.add.at(counts, (own.labels, own.predicted), 1)
    return table | {
        "headings": ["sensitivity", "PPV", "AUC"],
        "classes": [
            {"name": name, "figures": [figures[f"{kind}/{name}"] for kind in ("sensitivity", "ppv", "auc")]}
            for name in own.classes
        ],
        "confusion": page.png_uri(plots.confusion(counts, own.classes)),
        "reliability": page.png_uri(plots.reliability(*metrics.calibration(own))),
    }


def _source(evaluation: Evaluation, source: str) -> dict[str, Any]:
    """The encoder and its baselines on the queries of one source, in the first gallery."""
    gallery, methods = next(iter(evaluation.by_source[source].items()))
    return {
        "title": source,
        "words": WORDS[gallery][0],
        "columns": list(columns(evaluation).values()),
        "rows": [
            {"method": method, "figures": [figures.get(name) for name in columns(evaluation)]}
            for method, figures in methods.items()
        ],
    }


def _pictures(evaluation: Evaluation, images: Images) -> list[dict[str, Any]]:
    """Queries with the most and the least neighbours of their own class, in the archive where there is one."""
    gallery = next(iter(evaluation.retrievals))
    own = evaluation.retrievals[gallery][ENCODER]
    assert isinstance(own, Retrieval)
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
    retrieval = evaluation.retrievals[gallery][ENCODER]
    assert isinstance(retrieval, Retrieval)
    scores = retrieval.scores[query]
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
