"""Everything there is to say about one query: its hits, why they are hits, their vote, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrsearch.clinical.excerpts import Excerpt, excerpts, searched_words
from cxrsearch.encoder import Encoder
from cxrsearch.imaging.regions import WHOLE
from cxrsearch.retrieval.explanation import Explanation, explanations
from cxrsearch.retrieval.prediction import Prediction, Predictor
from cxrsearch.retrieval.search import Result, SearchOptions
from cxrsearch.retrieval.warnings import warnings_about
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.images import HitImage, StoredImages
from cxrsearch.voting import vote
from cxrsearch.voting.calibration import Calibration
from cxrsearch.voting.vote import Vote


@dataclass(frozen=True)
class Answer:
    """One query answered.

    excerpts, hit_images, explanations: one per hit; without images the last two are None for every hit.
    """

    result: Result
    excerpts: tuple[Mapping[str, Excerpt], ...]
    hit_images: tuple[HitImage | None, ...]
    explanations: tuple[Explanation | None, ...]
    vote: Vote | None
    prediction: Prediction | None
    warnings: tuple[str, ...]


def answer(
    result: Result,
    store: VectorStore,
    encoder: Encoder,
    options: SearchOptions,
    calibration: Calibration | None,
    with_images: bool = False,
    vote_on: str | None = None,
    predictor: Predictor | None = None,
) -> Answer:
    """``with_images``: with the hits' images and place maps. ``vote_on``: the field that the neighbours vote on."""
    query, images, size = result.query, StoredImages(store), encoder.card.image_size
    # The maps of a region are of the images that its search compared: thumbnails, where there are any.
    quick, shown = options.region != WHOLE, result.hits if with_images else []
    hit_images = [images.hit_image(hit.id, hit.payload, size, quick) for hit in shown]
    reasons = explanations(query, hit_images, encoder, options.region)
    counted = None
    if vote_on is not None:
        field = store.facts.all_fields[vote_on]
        counted = vote.count(store, query.direction, field, calibration, query.others, options.expression)
    words = searched_words(options.expression)
    return Answer(
        result,
        tuple(excerpts(hit.payload, words) for hit in result.hits),
        tuple(hit_images),
        tuple(reasons),
        counted,
        predictor.predict(query.image.embedding) if predictor is not None else None,
        tuple(warnings_about(result, store, calibration, options.expression, reasons)),
    )
