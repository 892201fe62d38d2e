"""An opened index with its encoder: the Python API, and what the commands search with.

with open_archive("chest") as archive:
    hits = archive.search("scan.dcm", where="age >= 60", k=5)
    search = archive.ask(Question(where="age >= 60", vote="outcome"))  # for many images
    answers = [search.answer(image) for image in archive.read(Path("scan.dcm"))]
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cxrsearch import settings
from cxrsearch.clinical.expression import Expression, both
from cxrsearch.clinical.fields import Field
from cxrsearch.clinical.identity import Identity, load_identity
from cxrsearch.clinical.where import parse
from cxrsearch.cohort import counts
from cxrsearch.cohort.similarity import Spread, spread
from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError, UsageError, WrongTypeError
from cxrsearch.imaging import regions
from cxrsearch.imaging.radiograph import DEFAULT_GATES, OPEN
from cxrsearch.model_card import find_model, read_card
from cxrsearch.report.frames import frame, shown_fields
from cxrsearch.results import Cohort, Embeddings, Hits
from cxrsearch.retrieval import search as searching
from cxrsearch.retrieval.answer import Answer, answer
from cxrsearch.retrieval.prediction import Predictor
from cxrsearch.retrieval.search import QueryImage, SearchOptions
from cxrsearch.store import open_store
from cxrsearch.store.contract import VectorStore
from cxrsearch.text_encoder import EncodedText, encode_text
from cxrsearch.voting import vote as voting
from cxrsearch.voting.calibration import Calibration
from cxrsearch.voting.vote import Vote

_log = logging.getLogger("cxrsearch")


@dataclass(frozen=True)
class Question:
    """What is asked about an image, or by a text.

    text: what to look for, in place of an image.
    where: a filter, as --where takes it.
    limit: how many hits.
    region: the part of the query that is compared, ``x0,y0,x1,y1`` of 0..1; None for all of it.
    like, unlike: files of example images.
    same_patient: let the query's own patient in.
    vote: a field to be estimated from the nearest patients.
    predict: a model that ``cxrsearch transfer`` saved.
    with_images: whether the hits come with their images and place maps.
    explain: whether the maps were asked for: an error where the model gives none.
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
    explain: bool = False
    text: str | None = None

    def check_text(self) -> None:
        """Raises UsageError for what cannot be asked of a text."""
        about_places = "is about places of an image, and a text has none"
        beside = "is about an image to search with; give that in place of the text"
        votes = "is learnt on images as queries, and says nothing of a text; cxrsearch cohort --by counts"
        asked = {
            "--region": (self.region is not None, about_places),
            "--explain": (self.explain, about_places),
            "--like": (bool(self.like), beside),
            "--unlike": (bool(self.unlike), beside),
            "--same-patient": (self.same_patient, beside),
            "--vote": (self.vote is not None, votes),
            "--predict": (self.predict is not None, votes),
        }
        for option, (is_given, why) in asked.items():
            if is_given:
                raise UsageError(f"{option}: {why}; leave {option} or --text out")


class Archive:
    """An open index and the model that made it.

    any_body_part: whether files of other body parts may be searched with. dataset: the one of the index that the images
    searched with would belong to, where that was said.
    """

    def __init__(
        self,
        store: VectorStore,
        model: str | Path | None = None,
        any_body_part: bool = False,
        dataset: str | None = None,
    ) -> None:
        """Raises ModelMismatch for an index of another model."""
        self._model = find_model(model)
        self._store, self.card, self._stack = store, read_card(self._model), ExitStack()
        self._is_closed = False
        self._gates, self._dataset = OPEN if any_body_part else DEFAULT_GATES, dataset
        store.facts.check_model(self.card.name, self.card.fingerprint, self.card.dimensions)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many images the index has."""
        return self.store.count()

    def __repr__(self) -> str:
        if self._is_closed:
            return "<closed archive>"
        return f"<{len(self)} images, model {self.card.name}, fields {', '.join(self.store.facts.fields)}>"

    def close(self) -> None:
        """Give the index back. What was found stays usable, but for further votes."""
        self._is_closed = True
        self._stack.close()

    @property
    def store(self) -> VectorStore:
        """The index. Raises UsageError where the archive was closed."""
        if self._is_closed:
            raise UsageError("the archive is closed; open it again with cxrsearch.open")
        return self._store

    def search(
        self,
        image: str | Path | None = None,
        where: str | None = None,
        k: int = 10,
        same_patient: bool = False,
        pictures: bool = True,
        *,
        text: str | None = None,
    ) -> Hits:
        """The radiographs most similar to the one in a file, or nearest to a text.

        Images of the query's own patient are left out, unless `same_patient`.

        Args:
            image: a file: DICOM, PNG, JPEG, TIFF, BMP or WebP, of one image.
            where: a filter, as `--where` takes it.
            k: how many hits, from 1 on.
            same_patient: let the query's own patient in.
            pictures: bring the hits' pictures along, for a notebook.
            text: what to look for, such as "bilateral consolidation", in place of an image: where the model has a
                text encoder.

        Raises:
            ImageError: for a file that gives no radiograph.
            InputError: for a file of several images.
            UsageError: for a filter that cannot be understood, an argument of another type, a text that says nothing, a
                model without text.
        """
        if image is not None and not isinstance(image, str | os.PathLike):
            raise WrongTypeError("image", "the path of a file", image)
        if text is not None and not isinstance(text, str):
            raise WrongTypeError("text", "words in a string", text)
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise WrongTypeError("k", "a whole number from 1 on", k)
        if k < 1:
            raise UsageError(f"k={k}: give at least 1")
        if (image is None) == (text is None):
            raise UsageError("give an image or a text to search with, one of the two")
        question = Question(where, int(k), same_patient=same_patient, with_images=pictures, text=text)
        search, found = self.ask(question), self.read(Path(image)) if image is not None else [None]
        if len(found) != 1:
            raise InputError(f"{image}: holds {len(found)} images; read() and ask() take each of them")

        def votes(field: str) -> Vote:
            asked = self.ask(replace(question, vote=str(field), with_images=False))
            counted = asked.answer(found[0]).vote
            assert counted is not None
            return counted

        return Hits(search.answer(found[0]), self.fields, votes)

    def cohort(self, where: str | None = None) -> Cohort:
        """The images that meet a filter, as `--where` takes it; all of them without one. Raises UsageError."""
        points = list(self.store.scroll(self.expression(where)))
        return Cohort(tuple(point.id for point in points), tuple(point.payload for point in points), self.fields)

    def embeddings(self, where: str | None = None) -> Embeddings:
        """The vectors of the images that meet a filter, and their facts: for a map or a model of one's own.

        `ids`: N; `vectors`: (N, D) float32, each of unit length; `facts`: a frame of N rows. Raises UsageError.
        """
        points = list(self.store.scroll(self.expression(where), vectors=True))
        ids = tuple(point.id for point in points)
        vectors = np.array([point.vector for point in points], dtype=np.float32)
        facts = frame([point.payload for point in points], shown_fields(self.fields), ids)
        return Embeddings(ids, vectors.reshape(len(points), self.store.facts.dimensions), facts)

    @property
    def fields(self) -> Mapping[str, Field]:
        """The facts that the index has, by name."""
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
        if where is not None and not isinstance(where, str):
            raise WrongTypeError("where", "a text, as --where takes it, or None", where)
        return parse(where, self.fields, self.store) if where is not None else None

    def read(self, path: Path) -> list[QueryImage]:
        """The image of a file, embedded; one for each frame of a file of several. Raises ImageError."""
        found = searching.read_query(path, self.store, self.encoder, self._identity, self._dataset, self._gates)
        _log.debug(f"read and embedded {path}")
        return found

    def read_text(self, text: str) -> EncodedText:
        """A text, embedded. Raises UsageError for one that says nothing, and where the model has no text encoder."""
        found = encode_text(self._model, text)
        _log.debug("read and embedded the text")
        return found

    def ask(self, question: Question) -> Search:
        """A question for any number of images.

        Raises UsageError for a question that cannot be asked of this index, ImageError for an example.
        """
        return Search(self, question)

    def spread(self, path: Path, where: Expression | None, by: str | None) -> tuple[list[Spread], Sequence[str]]:
        """How alike an image is to a cohort, or to each group of ``by`` in it (a field, ``age:10``), the image's own
        patient left out; and what has to be said of whose image it is."""
        grouping = counts.grouping(by, self.fields) if by is not None else None
        query = self.read(path)[0]
        gone = searching.left_out([query], self.store)
        return spread(self.store, query.embedding, both(gone.others, where), grouping), gone.notes


class Search:
    """A question, checked once and answered for any number of images. ``options``: what the index is searched for."""

    def __init__(self, archive: Archive, question: Question) -> None:
        if question.text is not None:
            question.check_text()
        if question.region is not None and (question.like or question.unlike):
            raise UsageError("--region goes with one image: leave --like and --unlike out")
        if not archive.card.has_places and (question.region is not None or question.explain):
            option = "--region" if question.region is not None else "--explain"
            raise UsageError(f"{option}: {archive.card.without_places}; leave it out, or index with another model")
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
        self._text = archive.read_text(question.text) if question.text is not None else None
        self.options = SearchOptions(expression, question.limit, question.same_patient, region, like, unlike)

    def answer(self, image: QueryImage | None = None) -> Answer:
        """image: None where the question has a text."""
        archive, question = self._archive, self._question
        if self._text is not None:
            result = searching.search_text(self._text, archive.store, self.options)
        elif image is not None:
            result = searching.search(image, archive.store, archive.encoder, self.options)
        else:
            raise UsageError("a question without a text is about an image: give one that read() gave")
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


def open_archive(
    address: str | Path, model: str | Path | None = None, any_body_part: bool = False, dataset: str | None = None
) -> Archive:
    """Open an index: a folder, or the URL of one on a Qdrant server.

    Use it in a `with` statement, or close it: a process that holds an index keeps its files.

    Args:
        address: the folder or URL.
        model: the name or folder of the model that made the index; the model that ships where it is not given.
        any_body_part: whether files of other body parts, and of CT, MR and so on, may be searched with.
        dataset: the one of the index that the images searched with would belong to: whose patient numbers theirs are.

    Raises:
        UsageError: for an address of another type.
        IndexUnavailable: where there is no index, or it is damaged.
        ModelError: where there is no such model.
        ModelMismatch: where the index was made by another model.
    """
    if not isinstance(address, str | os.PathLike):
        raise WrongTypeError("address", "a folder or a URL", address)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(str(address)))
        _log.debug(f"opened {address}")
        opened = Archive(store, model, any_body_part, dataset)
        opened._stack = stack.pop_all()
    return opened
