"""Image(s), or a text -> hits: read, embed, filter, query the index; the query's own patient left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Equals, Expression, both
from cxrsearch.clinical.fields import Payload, shown
from cxrsearch.clinical.identity import Identity, other_patients
from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.canonical import PICTURE_SIDE, canonical
from cxrsearch.imaging.isolated import read
from cxrsearch.imaging.places import Parts, parts
from cxrsearch.imaging.radiograph import DEFAULT_GATES, Gates, Radiograph
from cxrsearch.imaging.regions import WHOLE, Region
from cxrsearch.retrieval.own_patient import NEAREST, OwnPatient, copies, keywords, own_patient
from cxrsearch.store.contract import Scored, VectorStore
from cxrsearch.store.images import StoredImages
from cxrsearch.text_encoder import EncodedText

# Hits by the query's region whose own region is compared with it.
RERANKED = 200
# Images embedded at once.
_BATCH = 32


@dataclass(frozen=True)
class Hit:
    """A neighbour: score is the cosine similarity, -1..1; payload its clinical facts."""

    rank: int
    score: float
    payload: Payload
    id: str = field(default="", compare=False)


@dataclass(frozen=True)
class QueryImage:
    """An image that is searched with, or an example beside it.

    path: the file; the second frame of a file of several is called ``path#2``.
    radiograph: as read.
    canonical: (PICTURE_SIDE, PICTURE_SIDE) float32 in 0..1, what tells whether two files are one picture.
    embedding: (D,) float32 of unit length.
    places: (D, h, w) float32, whose sum over (h, w) is the embedding; None where the model gives none.
    own: what the index has of its patient.
    projection: frontal or lateral, where header or index say.
    """

    path: Path
    radiograph: Radiograph
    canonical: NDArray[np.float32]
    embedding: NDArray[np.float32]
    places: NDArray[np.float32] | None
    own: OwnPatient
    projection: str | None


@dataclass(frozen=True)
class SearchOptions:
    """What to search for.

    expression: among which images.
    limit: how many hits.
    same_patient: let the query's own patient in.
    region: part of the query, compared with the same part of the hits.
    like, unlike: example images beside the query.
    """

    expression: Expression | None = None
    limit: int = 10
    same_patient: bool = False
    region: Region = WHOLE
    like: tuple[QueryImage, ...] = ()
    unlike: tuple[QueryImage, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the whole query is compared, and nothing else."""
        return self.region == WHOLE and not self.like and not self.unlike


@dataclass(frozen=True)
class LeftOut:
    """What of an index is the query's own patient's, and so no hit and no voter.

    patients: pseudonyms.
    others: what every other image meets; None where nothing is left out.
    notes: what is not known of it, and what was done.
    nearest: the images most similar to the first query that are not left out, as many as were looked through for
        copies (own_patient.NEAREST); None where that is not known.
    """

    patients: tuple[str, ...] = ()
    others: Expression | None = None
    notes: tuple[str, ...] = ()
    nearest: tuple[Scored, ...] | None = None


@dataclass(frozen=True)
class Query:
    """What was compared with the hits.

    image: the image that was searched with; None for a text.
    left_out: what was not considered.
    direction: (D,) float32 of unit length; the image's embedding unless a region or examples were given.
    parts: the direction's share of the image, by place; None where the model gives no places.
    text: what was searched with in place of an image.
    """

    image: QueryImage | None
    left_out: LeftOut
    direction: NDArray[np.float32]
    parts: Parts | None
    text: EncodedText | None = None

    @property
    def name(self) -> str:
        """The file, or the text."""
        return str(self.image.path) if self.image is not None else self.text.text if self.text is not None else ""


@dataclass(frozen=True)
class Result:
    """unseen: hits without an image here, whose region could not be compared; they come last, by the whole image.
    originals: hits whose region was read from the original, for want of a thumbnail."""

    query: Query
    hits: list[Hit]
    unseen: int = 0
    originals: int = 0


def read_query(
    path: Path,
    store: VectorStore,
    encoder: Encoder,
    identity: Identity | None,
    dataset: str | None = None,
    gates: Gates = DEFAULT_GATES,
) -> list[QueryImage]:
    """The image of a file, embedded; one for each frame of a file of several.

    dataset: the one of the index that the file would belong to, where that was said (own_patient.py).
    Raises ImageError for an image that cannot be read, or that index would not let in either.
    """
    if not path.is_file():  # said here with the folders: read() names the file alone, for lists of rejected files
        raise ImageError(Reason.MISSING, f"{path}: {_why_no_file(path)}")
    radiographs = _read(path, keywords(store.facts), gates)
    squares = [canonical(one, PICTURE_SIDE) for one in radiographs]
    prepared = [encoder.prepare(one, square) for one, square in zip(radiographs, squares, strict=True)]
    if encoder.card.has_places:
        encoded = encoder.encode(prepared)
        embeddings, everywhere = encoded.embedding, list(encoded.places)
    else:
        embeddings, everywhere = encoder.embed_prepared(prepared), None
    found = []
    for number, radiograph in enumerate(radiographs):
        own = own_patient(path, radiograph, squares[number], embeddings[number], store, identity, dataset)
        name = path if radiograph.frame == 1 else path.with_name(f"{path.name}#{radiograph.frame}")
        stored = next((str(one["projection"]) for one in own.stored if "projection" in one), None)
        embedding, places = embeddings[number], everywhere[number] if everywhere is not None else None
        projection = radiograph.projection or stored
        found.append(QueryImage(name, radiograph, squares[number], embedding, places, own, projection))
    return found


def _read(path: Path, keywords: Sequence[str], gates: Gates) -> list[Radiograph]:
    try:
        return read(path, keywords, gates)
    except ImageError as error:
        if error.reason not in (Reason.MODALITY, Reason.BODY_PART):
            raise
        what = str(error).split("; ")[0]
        raise ImageError(error.reason, f"{what}; --any-body-part searches with it all the same") from None


def _why_no_file(path: Path) -> str:
    if re.match(r"\w+:/", str(path)):
        return "is an address; images are read from files, so download it first"
    if path.is_dir():
        return "is a folder, not a file; name its images"
    return "does not exist or is no regular file"


def search(image: QueryImage, store: VectorStore, encoder: Encoder, options: SearchOptions) -> Result:
    """The most similar radiographs of the index. Images of the query's own patient, and of the examples', are left out
    unless ``same_patient``."""
    like, unlike = options.like, options.unlike
    gone = LeftOut() if options.same_patient else left_out([image, *like, *unlike], store)
    expression = both(gone.others, options.expression)
    whole = parts(image.places, image.radiograph, options.region) if image.places is not None else None
    unseen = originals = 0
    if like or unlike:
        positives, negatives = ([one.embedding for one in ones] for ones in ([image, *like], unlike))
        direction = np.sum(positives, axis=0) - np.sum([np.zeros_like(image.embedding), *negatives], axis=0)
        # The engine's score is a sum of similarities; divided by this length it is the cosine with the direction.
        length = float(np.linalg.norm(direction)) or 1.0
        found = store.recommend(positives, negatives, options.limit, expression)
        scored = [Scored(one.id, one.score / length, one.payload) for one in found]
        whole = Parts(whole.places / length) if whole is not None else None
        direction = (direction / length).astype(np.float32)
    elif options.region != WHOLE:
        assert whole is not None  # archive.py refuses a region where there are no places
        direction = whole.total
        found = store.query(direction, max(RERANKED, options.limit), expression)
        scored, unseen, originals = _by_region(direction, found, StoredImages(store), encoder, options)
    else:
        direction, nearest = image.embedding, gone.nearest
        if nearest is not None and options.expression is None and options.limit <= NEAREST:
            scored = list(nearest[: options.limit])
        else:
            scored = store.query(direction, options.limit, expression)
    return Result(Query(image, gone, direction, whole), _hits(scored), unseen, originals)


def search_text(text: EncodedText, store: VectorStore, options: SearchOptions) -> Result:
    """The radiographs nearest to a text. It is nobody's, so nobody is left out."""
    scored = store.query(text.embedding, options.limit, options.expression)
    return Result(Query(None, LeftOut(), text.embedding, None, text), _hits(scored))


def _hits(scored: Sequence[Scored]) -> list[Hit]:
    return [Hit(rank, one.score, shown(one.payload), one.id) for rank, one in enumerate(scored, start=1)]


def left_out(images: Sequence[QueryImage], store: VectorStore) -> LeftOut:
    """Everything of the patients of these images."""
    is_unknown = all(one.own.nearest is not None for one in images)
    patients = {name for one in images for name in one.own.patients}
    digests = [one.own.digests for one in images if one.own.digests]
    files, pictures = ({pair[n] for pair in digests} for n in (0, 1))
    others = other_patients(files, pictures, patients)
    notes = list(dict.fromkeys(note for one in images for note in one.own.notes))
    copied: set[str] = set()
    of_first: tuple[Scored, ...] = ()
    for one in images:
        nearest = one.own.nearest if is_unknown else None
        found = copies(one.canonical, one.radiograph, one.embedding, one.own, store, others, nearest)
        copied |= found.pictures
        of_first = found.nearest if one is images[0] else of_first
        if not one.own.patients and found.patients:
            patients |= found.patients
            notes = [note for note in notes if note not in one.own.notes]
            notes.append("this file's patient was taken to be that of the same picture in the index")
    if copied:
        number = store.count(Equals("picture", tuple(copied)))
        notes.append(f"left out: {number} images that are the same picture as one of the own patient's")
        others = other_patients(files, pictures | copied, patients)
    return LeftOut(tuple(sorted(patients)), others, tuple(notes), None if copied else of_first)


def _by_region(
    direction: NDArray[np.float32],
    found: Sequence[Scored],
    images: StoredImages,
    encoder: Encoder,
    options: SearchOptions,
) -> tuple[list[Scored], int, int]:
    """The hits whose own region is most like the query's, best first; of those returned, how many have no image, and
    how many were compared by their original."""
    pairs = [(one, images.hit_image(one.id, one.payload, encoder.card.image_size, quick=True)) for one in found]
    shown = [(one, image) for one, image in pairs if image is not None]
    compared: list[Scored] = []
    for start in range(0, len(shown), _BATCH):
        batch = shown[start : start + _BATCH]
        places = encoder.encode([image.canonical for _, image in batch]).places
        for (one, image), own in zip(batch, places, strict=True):
            score = float(parts(own, image, options.region).total @ direction)
            compared.append(Scored(one.id, score, one.payload))
    compared.sort(key=lambda one: -one.score)
    best = [*compared, *(one for one, image in pairs if image is None)][: options.limit]
    by_original = {one.id for one, image in shown if image.original}
    return best, max(0, len(best) - len(compared)), sum(one.id in by_original for one in best)
