"""Everything that is said about one query: its hits, why they are hits, what they vote for, what to be warned of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrsearch import cautions, vote
from cxrsearch.calibration import Calibration
from cxrsearch.encoder import Encoder
from cxrsearch.excerpts import Excerpt, excerpts, looked_for
from cxrsearch.explain import Explanation, explanations
from cxrsearch.pictures import Pictures
from cxrsearch.prediction import Prediction, Predictor
from cxrsearch.search import Result, Wanted
from cxrsearch.store.contract import VectorStore
from cxrsearch.vote import Vote


@dataclass(frozen=True)
class Answer:
    """excerpts, explanations: one per hit; the latter empty where nobody asked."""

    result: Result
    excerpts: tuple[Mapping[str, Excerpt], ...]
    explanations: tuple[Explanation | None, ...]
    vote: Vote | None
    prediction: Prediction | None
    warnings: tuple[str, ...]


def answer(
    result: Result, store: VectorStore, encoder: Encoder, wanted: Wanted, calibration: Calibration | None,
    explained: bool = False, field: str | None = None, predictor: Predictor | None = None,
) -> Answer:  # fmt: skip
    """``explained``: with place maps. ``field``: what to vote on."""
    query, pictures = result.query, Pictures(store)
    why = explanations(result, pictures, encoder, wanted.region) if explained else []
    voted = None
    if field is not None:
        known = store.facts.all_fields[field]
        voted = vote.count(store, query.direction, known, calibration, query.others, wanted.expression)
    words = looked_for(wanted.expression)
    return Answer(
        result,
        tuple(excerpts(hit.payload, words) for hit in result.hits),
        tuple(why),
        voted,
        predictor.predict(query.asked.embedding) if predictor is not None else None,
        tuple(cautions.of(result, store, calibration, wanted.expression, why)),
    )
