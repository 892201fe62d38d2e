"""An opened index with its encoder: what the commands search with.

with open_archive("chest") as archive:
    search = archive.search(Question(where="age >= 60", vote="outcome"))
    answers = [search.answer(image) for image in archive.read(Path("scan.dcm"))]
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cxrsearch import settings
from cxrsearch.clinical.expression import Expression, both
from cxrsearch.clinical.fields import Field
from cxrsearch.clinical.identity import Identity, load_identity
from cxrsearch.clinical.where import parse
from cxrsearch.cohort import counts
from cxrsearch.cohort.similarity import Spread, spread
from cxrsearch.encoder import DEFAULT_MODEL, Encoder, read_card
from cxrsearch.errors import UsageError
from cxrsearch.imaging import regions
from cxrsearch.imaging.radiograph import DEFAULT_GATES, OPEN
from cxrsearch.retrieval import search as searching
from cxrsearch.retrieval.answer import Answer, answer
from cxrsearch.retrieval.prediction import Predictor
from cxrsearch.retrieval.search import QueryImage, SearchOptions
from cxrsearch.store import open_store
from cxrsearch.store.contract import VectorStore
from cxrsearch.voting import vote as voting
from cxrsearch.voting.calibration import Calibration

_log = logging.getLogger("cxrsearch")


@dataclass(frozen=True)
class Question:
    """What is asked about an image.

    where: a filter, as --where takes it.
    limit: how many hits.
    region: the part of the query that is compared, ``x0,y0,x1,y1`` of 0..1; None for all of it.
    like, unlike: files of example images.
    same_patient: let the query's own patient in.
    vote: a field to be estimated from the nearest patients.
    predict: a model that ``cxrsearch transfer`` saved.
    with_images: whether the hits come with their images and place maps.
    """

    where: str | None = None
    limit: int = 10
    region: str | None = None
    like: Sequence[Path] = ()
    unlike: Sequence[Path] = ()
    same_patient: bool = False
    vote: str | None = None
    predict: Path | None = None
    with_images: bool = False


class Archive:
    """An open index and the model that made it.

    any_body_part: whether files of other body parts may be searched with. dataset: the one of the index that the images
    searched with would belong to, where that was said.
    """

    def __init__(
        self,
        store: VectorStore,
        model: Path = DEFAULT_MODEL,
        any_body_part: bool = False,
        dataset: str | None = None,
    ) -> None:
        """Raises ModelMismatch for an index of another model."""
        self.store, self.card, self._model = store, read_card(model), model
        self._gates, self._dataset = OPEN if any_body_part else DEFAULT_GATES, dataset
        store.facts.check_model(self.card.name, self.card.fingerprint, self.card.dimensions)

    @property
    def fields(self) -> Mapping[str, Field]:
        return self.store.facts.all_fields

    @cached_property
    def calibration(self) -> Calibration | None:
        return Calibration.from_json(self.store.facts.calibration)

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded when it is first needed: what is wrong with a question is found before."""
        encoder = Encoder(self._model)
        _log.debug(f"loaded {self.card.name}")
        return encoder

    @cached_property
    def _identity(self) -> Identity | None:
        return load_identity(settings.key_file())

    def expression(self, where: str | None) -> Expression | None:
        """Raises WhereError."""
        return parse(where, self.fields, self.store) if where is not None else None

    def read(self, path: Path) -> list[QueryImage]:
        """The image of a file, embedded; one for each frame of a file of several. Raises ImageError."""
        found = searching.read_query(path, self.store, self.encoder, self._identity, self._dataset, self._gates)
        _log.debug(f"read and embedded {path}")
        return found

    def search(self, question: Question) -> Search:
        """Raises UsageError for a question that cannot be asked of this index, ImageError for an example."""
        return Search(self, question)

    def spread(self, path: Path, where: Expression | None, by: str | None) -> tuple[list[Spread], Sequence[str]]:
        """How alike an image is to a cohort, or to each value of ``by`` in it, the image's own patient left out; and
        what has to be said of whose image it is."""
        counts.check_groups([by] if by is not None else [], self.fields)
        query = self.read(path)[0]
        gone = searching.left_out([query], self.store)
        return spread(self.store, query.embedding, both(gone.others, where), by), gone.notes


class Search:
    """A question, checked once and answered for any number of images. ``options``: what the index is searched for."""

    def __init__(self, archive: Archive, question: Question) -> None:
        if question.region is not None and (question.like or question.unlike):
            raise UsageError("--region goes with one image: leave --like and --unlike out")
        if question.vote is not None:
            counts.check_fields([question.vote], archive.fields, "--vote")
            voting.check_field(archive.fields[question.vote])
        region = regions.WHOLE if question.region is None else regions.parse(question.region)
        expression = archive.expression(question.where)
        self._predictor = Predictor(question.predict) if question.predict is not None else None
        if self._predictor is not None:
            self._predictor.check_model(archive.card.name, archive.card.fingerprint)
        like, unlike = (
            tuple(image for path in paths for image in archive.read(path)) for paths in (question.like, question.unlike)
        )
        self._archive, self._question = archive, question
        self.options = SearchOptions(expression, question.limit, question.same_patient, region, like, unlike)

    def answer(self, image: QueryImage) -> Answer:
        archive, question = self._archive, self._question
        result = searching.search(image, archive.store, archive.encoder, self.options)
        _log.debug(f"found {len(result.hits)} images")
        return answer(
            result,
            archive.store,
            archive.encoder,
            self.options,
            archive.calibration,
            question.with_images,
            question.vote,
            self._predictor,
        )


@contextmanager
def open_archive(
    address: str, model: Path | None = None, any_body_part: bool = False, dataset: str | None = None
) -> Iterator[Archive]:
    """Open an index, a folder or a URL. Raises IndexUnavailable, ModelError, ModelMismatch."""
    with open_store(address) as store:
        _log.debug(f"opened {address}")
        yield Archive(store, model or DEFAULT_MODEL, any_body_part, dataset)
