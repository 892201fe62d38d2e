"""Answers as one page that can be sent to somebody: pictures to compare, maps, facts, vote, where it all comes from.

The names of the query's files are not in it: they often name patients.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cxrsearch.clinical.fields import DIGESTS, Field, FieldType, Payload, values_of
from cxrsearch.cohort import counts
from cxrsearch.imaging.canonical import content, grey
from cxrsearch.imaging.places import Shares, Sized
from cxrsearch.model_card import ModelCard
from cxrsearch.report import page
from cxrsearch.report.rows import text_of
from cxrsearch.report.votes import VOTE_COLUMNS, vote_rows, vote_words
from cxrsearch.retrieval.answer import Answer
from cxrsearch.retrieval.explanation import Explanation
from cxrsearch.retrieval.search import Hit, QueryImage, SearchOptions
from cxrsearch.statistics import Figure
from cxrsearch.store import graph
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.images import SHOWN, StoredImages
from cxrsearch.voting.calibration import Calibration

# Facts that a page does not show: of the file, not of the patient.
_HIDDEN = DIGESTS | {"width", "height", "frame"}
# A field of more values than this is not compared with the cohort: a table of single images tells nothing.
_FEW_VALUES = 8
_SCRIPT = Path(__file__).parent / "templates" / "search.js"
# What adds to a score is orange, what takes from it blue: told apart in every kind of colour blindness.
_ADDS, _TAKES = (255, 140, 0), (30, 110, 255)
_STRONGEST = 190  # of 255: the picture stays to be seen


def write(
    path: Path,
    answers: Sequence[Answer],
    store: VectorStore,
    card: ModelCard,
    options: SearchOptions,
    calibration: Calibration | None,
    command: str,
) -> int:
    """Write the page; its size in bytes. ``command``: how it was made, without names of images. Raises InputError."""
    script = _SCRIPT.read_text("utf-8")
    images = StoredImages(store)
    page.write(
        path,
        "search",
        title="Similar radiographs",
        script=Markup(script),
        script_hash=_hash(script),
        queries=[_query(number, one, store, images, calibration) for number, one in enumerate(answers, start=1)],
        cohort=[(number, _against_cohort(one, store, options)) for number, one in enumerate(answers, start=1)],
        region=options.region,
        texts={n for n, f in store.facts.fields.items() if f.type is FieldType.TEXT},
        provenance=_provenance(store, card, calibration, command),
        figures=_figures(card),
        intended=card.described.get("intended_use", {}),
    )
    return path.stat().st_size


def _query(
    number: int, answer: Answer, store: VectorStore, images: StoredImages, calibration: Calibration | None
) -> dict[str, Any]:
    query, vote = answer.result.query, answer.vote
    hits = [_hit(place, answer, store, images) for place in range(len(answer.result.hits))]
    return {
        "number": number,
        "text": None if query.text is None else query.text.text,
        "image": None if query.image is None else _query_image(query.image),
        "hits": hits,
        "left_out": query.left_out.patients,
        "warnings": answer.warnings,
        "found_by": None if answer.graph is None else graph.found_words(answer.graph),
        "vote": None
        if vote is None
        else {
            "field": vote.field,
            "columns": VOTE_COLUMNS,
            "words": vote_words(vote, calibration),
            "rows": [[text_of(row.get(name)) for name in VOTE_COLUMNS] for row in vote_rows(vote)],
        },
        "prediction": answer.prediction,
    }


def _query_image(image: QueryImage) -> dict[str, Any]:
    return {
        "picture": page.jpeg_uri(np.asarray(grey(image.radiograph, SHOWN)), SHOWN),
        "frame": _frame(image.radiograph),
        "indexed": bool(image.own.stored),
        "projection": image.projection,
        "size": f"{image.radiograph.width} x {image.radiograph.height}",
        "format": image.radiograph.format,
    }


def _hit(place: int, answer: Answer, store: VectorStore, images: StoredImages) -> dict[str, Any]:
    hit = answer.result.hits[place]
    why = answer.explanations[place] if answer.explanations else None
    image = answer.hit_images[place]
    if image is not None and not image.original:  # a region's maps are of thumbnails; people are shown the original
        image = images.hit_image(hit.id, hit.payload, len(image.canonical))
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.4f}",
        "picture": None if image is None else page.jpeg_uri(np.asarray(image.shown), SHOWN),
        "frame": None if image is None else _frame(image),
        "original": image is not None and image.original,
        "query_map": None if why is None else _map(why.query, why),
        "hit_map": None if why is None else _map(why.hit, why),
        "shares": None if why is None else [("query", _written(why.query_shares)), ("hit", _written(why.hit_shares))],
        "facts": _facts(hit, store),
        "excerpts": sorted(answer.excerpts[place].items()),
    }


def _facts(hit: Hit, store: VectorStore) -> list[tuple[str, str | None]]:
    """Every fact the index knows of images, None where it is missing for this one."""
    names = [name for name in store.facts.all_fields if name not in _HIDDEN]
    return [(name, text_of(hit.payload.get(name)) or None) for name in names]


def _against_cohort(answer: Answer, store: VectorStore, options: SearchOptions) -> list[dict[str, Any]]:
    """How often each value of a field is among the hits, and in the cohort they were searched in."""
    compared = []
    payloads = [hit.payload for hit in answer.result.hits]
    for field in store.facts.fields.values():
        if field.type in (FieldType.KEYWORD, FieldType.BOOLEAN):
            in_cohort = counts.shares(store, field.name, options.expression)
            if 1 < len(in_cohort) <= _FEW_VALUES:
                known = counts.known(store, field.name, options.expression)
                compared.append({"field": field.name, "known": known, **_among(payloads, field, in_cohort)})
    return compared


def _among(payloads: Sequence[Payload], field: Field, in_cohort: dict[Any, float]) -> dict[str, Any]:
    having = [values_of(payload, field.name) for payload in payloads]
    having = [values for values in having if values]
    rows = [
        (text_of(value), sum(value in values for values in having) / len(having) if having else None, share)
        for value, share in sorted(in_cohort.items(), key=lambda item: -item[1])
    ]
    return {"rows": rows, "with_value": len(having), "hits": len(payloads)}


def _provenance(
    store: VectorStore, card: ModelCard, calibration: Calibration | None, command: str
) -> list[tuple[str, str]]:
    datasets = ", ".join(f"{name} ({number})" for name, number in store.values("dataset").items())
    return [
        ("command", command),
        ("made", datetime.datetime.now().astimezone().isoformat(" ", "minutes")),
        ("index", f"{store.count()} images: {datasets}"),
        ("model", f"{card.name}, {card.fingerprint[:12]}; {card.described.get('backbone', '')}"),
        ("learnt from", ", ".join(map(str, card.described.get("trained_on", [])))),
        ("vote calibrated", "no" if calibration is None else f"on {calibration.made}, {calibration.images} images"),
    ]


def _figures(card: ModelCard) -> dict[str, dict[str, str]]:
    """Of the card: what the encoder and its baselines reach on patients held out."""
    titles = {
        "precision_at_1": "P@1",
        "map_at_r": "MAP@R",
        "vote_accuracy": "vote",
        "auc": "AUC, mean of the findings",
        "map": "mAP",
    }
    unseen = card.described.get("figures", {}).get("unseen", {})
    return {
        str(method): {title: Figure(*row[name]).written() for name, title in titles.items() if name in row}
        for method, row in unseen.items()
    }


def _written(shares: Shares | None) -> dict[str, str] | None:
    if shares is None:
        return None
    return {name: f"{getattr(shares, name):.0%}" for name in ("border", "lungs", "between")}


def _map(values: NDArray[np.float32], why: Explanation) -> str:
    """A data URI: one pixel a place, clear where the place says nothing. Both maps of a hit have one scale."""
    largest = max(float(np.abs(why.query).max()), float(np.abs(why.hit).max()), 1e-12)
    strength = np.abs(values) / largest
    picture = np.empty((*values.shape, 4), dtype=np.uint8)
    picture[..., :3] = np.where((values > 0)[..., None], _ADDS, _TAKES)
    picture[..., 3] = np.rint(strength * _STRONGEST)
    from PIL import Image

    Image.fromarray(picture).save(stream := io.BytesIO(), "PNG")
    return page.png_uri(stream.getvalue())


def _frame(image: Sized) -> dict[str, float]:
    """Where in the canonical square the picture is, in percent: what a map is laid over."""
    rows, columns = content(image.width, image.height, size := 1024)
    return {
        "top": 100 * rows.start / size,
        "left": 100 * columns.start / size,
        "height": 100 * (rows.stop - rows.start) / size,
        "width": 100 * (columns.stop - columns.start) / size,
    }


def _hash(script: str) -> str:
    """The source expression by which a content security policy knows an inline script (CSP Level 3, 2.3.1)."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
