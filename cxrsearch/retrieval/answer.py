"""Everything that is said about one query: its hits, why they are hits, what they vote for, what to be warned of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrsearch.clinical.excerpts import Excerpt, excerpts, looked_for
from cxrsearch.encoder import Encoder
from cxrsearch.imaging.regions import WHOLE
from cxrsearch.retrieval import warnings as cautions
from cxrsearch.retrieval.explanation import Explanation, explanations
from cxrsearch.retrieval.prediction import Prediction, Predictor
from cxrsearch.retrieval.search import Result, Wanted
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.images import Pictures, Seen
from cxrsearch.voting import vote
from cxrsearch.voting.calibration import Calibration
from cxrsearch.voting.vote import Vote


@dataclass(frozen=True)
class Answer:
    """excerpts, looked, explanations: one per hit; the pictures that were looked at, and why, are empty where nobody
    asked for them."""

    result: Result
    excerpts: tuple[Mapping[str, Excerpt], ...]
    looked: tuple[Seen | None, ...]
    explanations: tuple[Explanation | None, ...]
    vote: Vote | None
    prediction: Prediction | None
    warnings: tuple[str, ...]


def answer(
    result: Result, store: VectorStore, encoder: Encoder, wanted: Wanted, calibration: Calibration | None,
    pictured: bool = False, field: str | None = None, predictor: Predictor | None = None,
) -> Answer:  # fmt: skip
    """``pictured``: with the hits' pictures and place maps. ``field``: what to vote on."""
    query, pictures, size = result.query, Pictures(store), encoder.card.image_size
    # The maps of a region are of the pictures that its search compared: thumbnails, where there are any.
    quick, hits = wanted.region != WHOLE, result.hits if pictured else []
    looked = [pictures.seen(hit.id, hit.payload, size, quick) for hit in hits]
    why = explanations(query, looked, encoder, wanted.region)
    voted = None
    if field is not None:
        known = store.facts.all_fields[field]
        voted = vote.count(store, query.direction, known, calibration, query.others, wanted.expression)
    words = looked_for(wanted.expression)
    return Answer(
        result,
        tuple(excerpts(hit.payload, words) for hit in result.hits),
        tuple(looked),
        tuple(why),
        voted,
        predictor.predict(query.asked.embedding) if predictor is not None else None,
        tuple(cautions.of(result, store, calibration, wanted.expression, why)),
    )
