"""Everything there is to say about one query: its hits, why they are hits, their vote, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrsearch.clinical.excerpts import Excerpt, excerpts, searched_words
from cxrsearch.encoder import Encoder
from cxrsearch.imaging.regions import WHOLE
from cxrsearch.retrieval.explanation import Explanation, explanations
from cxrsearch.retrieval.prediction import Prediction, Predictor
from cxrsearch.retrieval.search import RERANKED, Result, SearchOptions
from cxrsearch.retrieval.warnings import warnings_about
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.graph import Graph, used
from cxrsearch.store.images import HitImage, StoredImages
from cxrsearch.voting import vote
from cxrsearch.voting.calibration import Calibration
from cxrsearch.voting.nearness import FAR, Nearness
from cxrsearch.voting.vote import Vote


@dataclass(frozen=True)
class Standing:
    """How near a query is to its archive, as that knows its own images (voting/nearness.py).

    nearest: the similarity, -1..1, to the nearest image that is not the own patient's; novelty: the least at which a
    query counts as known territory; None where the archive is too small to say.
    ranks: of each hit, the part of the archive's nearest pairs that it is nearer than; empty where that says nothing.
    """

    nearest: float | None
    novelty: float | None
    ranks: tuple[float, ...]

    @property
    def is_far(self) -> bool:
        return self.nearest is not None and self.novelty is not None and self.nearest < self.novelty

    @property
    def words(self) -> str:
        return (
            f"this image is far from everything in the index: the nearest is at {self.nearest:.3f}, while"
            f" {100 - FAR} % of the index's own images have another patient at {self.novelty:.3f} or nearer"
        )


def _standing(result: Result, store: VectorStore, calibration: Calibration | None, options: SearchOptions) -> Standing:
    if result.query.image is None:  # how near two images are says nothing of a text
        return Standing(None, None, ())
    learnt = Nearness.from_json(store.facts.nearness)
    novelty = learnt.novelty if learnt is not None else calibration.novelty if calibration is not None else None
    if novelty is None:
        return Standing(None, None, ())
    if options.is_whole and options.expression is None and result.hits:
        nearest: float | None = result.hits[0].score  # the search asked just that
    else:
        gone = result.query.left_out
        found = gone.nearest if gone.nearest is not None else store.query(result.query.image.embedding, 1, gone.others)
        nearest = found[0].score if found else None
    ranks = tuple(learnt.rank(hit.score) for hit in result.hits) if learnt is not None and options.is_whole else ()
    return Standing(nearest, novelty, ranks)


@dataclass(frozen=True)
class Answer:
    """One query answered.

    excerpts, hit_images, explanations: one per hit; without images the last two are None for every hit.
    standing: how near the query and its hits are, as this archive goes.
    graph: what found the hits; None where every image was compared.
    """

    result: Result
    excerpts: tuple[Mapping[str, Excerpt], ...]
    hit_images: tuple[HitImage | None, ...]
    explanations: tuple[Explanation | None, ...]
    vote: Vote | None
    prediction: Prediction | None
    warnings: tuple[str, ...]
    standing: Standing
    graph: Graph | None


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
    standing = _standing(result, store, calibration, options)
    far = [standing.words] if standing.is_far else []
    counted = None
    if vote_on is not None:
        field = store.facts.all_fields[vote_on]
        why = list(far)
        if not options.is_whole:
            why.append("what was compared is not the whole image, of which alone a vote is calibrated")
        others, where = query.left_out.others, options.expression
        counted = vote.count(store, query.direction, field, calibration, others, where, why, silent=standing.is_far)
    words = searched_words(options.expression)
    return Answer(
        result,
        tuple(excerpts(hit.payload, words) for hit in result.hits),
        tuple(hit_images),
        tuple(reasons),
        counted,
        predictor.predict(query.image.embedding) if predictor is not None and query.image is not None else None,
        (*far, *warnings_about(result, store, options.expression, reasons)),
        standing,
        _graph(store, options),
    )


def _graph(store: VectorStore, options: SearchOptions) -> Graph | None:
    if options.like or options.unlike:
        return None  # recommend compares with every point
    looked_through = options.limit if options.region == WHOLE else max(RERANKED, options.limit)
    return used(store.facts.graph, looked_through, options.expression)
