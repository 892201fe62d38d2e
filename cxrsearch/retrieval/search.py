"""Image(s) -> hits: read, embed, filter, query the index; the query's own patient left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Equals, Expression, both
from cxrsearch.clinical.fields import ROW_HASH, Payload
from cxrsearch.clinical.identity import Identity, other_patients
from cxrsearch.encoder import Encoder
from cxrsearch.imaging.canonical import canonical
from cxrsearch.imaging.places import Parts, parts
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.read import read
from cxrsearch.imaging.regions import WHOLE, Region
from cxrsearch.store.contract import Scored, VectorStore
from cxrsearch.store.images import StoredImages

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
    canonical: (S, S) float32 in 0..1, what was embedded.
    embedding: (D,) float32 of unit length.
    places: (D, h, w) float32, whose sum over (h, w) is the embedding.
    patients: pseudonyms of its patient.
    projection: frontal or lateral, where header or index say.
    indexed: whether this very file is in the index.
    """

    path: Path
    radiograph: Radiograph
    canonical: NDArray[np.float32]
    embedding: NDArray[np.float32]
    places: NDArray[np.float32]
    patients: frozenset[str]
    projection: str | None
    indexed: bool


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


@dataclass(frozen=True)
class Query:
    """What was compared with the hits.

    image: the image that was searched with.
    left_out: pseudonyms of the patients whose images were not considered.
    direction: (D,) float32 of unit length; the image's embedding unless a region or examples were given.
    parts: the direction's share of the image, by place.
    others: what every image that may be a hit meets, the filter aside; None where all may.
    """

    image: QueryImage
    left_out: tuple[str, ...]
    direction: NDArray[np.float32]
    parts: Parts
    others: Expression | None


@dataclass(frozen=True)
class Result:
    """unseen: hits without an image here, whose region could not be compared; they come last, by the whole image."""

    query: Query
    hits: list[Hit]
    unseen: int = 0


def read_query(path: Path, store: VectorStore, encoder: Encoder, identity: Identity | None) -> list[QueryImage]:
    """The image of a file, embedded; one for each frame of a file of several.

    Its patient is known when the file is in the index, or from the DICOM header when there is a pseudonym key.
    Raises ImageError for an image that cannot be read.
    """
    radiographs = read(path, ("PatientID",))
    squares = [canonical(one, encoder.card.image_size) for one in radiographs]
    encoded = encoder.encode(squares)
    found = []
    for number, radiograph in enumerate(radiographs):
        same_file = Equals("image_sha256", (radiograph.sha256,))
        own = [point.payload for point in store.scroll(same_file, fields=["patient", "projection"])]
        name = path if radiograph.frame == 1 else path.with_name(f"{path.name}#{radiograph.frame}")
        patients = frozenset(_patients(own, store, radiograph, identity))
        projection = radiograph.projection or next((str(one["projection"]) for one in own if "projection" in one), None)
        embedding, places = encoded.embedding[number], encoded.places[number]
        found.append(QueryImage(name, radiograph, squares[number], embedding, places, patients, projection, bool(own)))
    return found


def search(image: QueryImage, store: VectorStore, encoder: Encoder, options: SearchOptions) -> Result:
    """The most similar radiographs of the index. Images of the query's own patient, and of the examples', are left out
    unless ``same_patient``."""
    like, unlike = options.like, options.unlike
    together = [image, *like, *unlike]
    left_out = () if options.same_patient else tuple(sorted({name for one in together for name in one.patients}))
    files = (one.radiograph.sha256 for one in together)
    others = None if options.same_patient else other_patients(files, left_out)
    expression = both(others, options.expression)
    whole = parts(image.places, image.radiograph, options.region)
    unseen = 0
    if like or unlike:
        positives, negatives = ([one.embedding for one in ones] for ones in ([image, *like], unlike))
        direction = np.sum(positives, axis=0) - np.sum([np.zeros_like(image.embedding), *negatives], axis=0)
        # The engine's score is a sum of similarities; divided by this length it is the cosine with the direction.
        length = float(np.linalg.norm(direction)) or 1.0
        found = store.recommend(positives, negatives, options.limit, expression)
        scored = [Scored(one.id, one.score / length, one.payload) for one in found]
        whole, direction = Parts(whole.places / length), (direction / length).astype(np.float32)
    elif options.region != WHOLE:
        direction = whole.total
        found = store.query(direction, max(RERANKED, options.limit), expression)
        scored, unseen = _by_region(direction, found, StoredImages(store), encoder, options)
    else:
        direction = image.embedding
        scored = store.query(direction, options.limit, expression)
    hits = [
        Hit(rank, one.score, {name: value for name, value in one.payload.items() if name != ROW_HASH}, one.id)
        for rank, one in enumerate(scored, start=1)
    ]
    return Result(Query(image, left_out, direction, whole, others), hits, unseen)


def _by_region(
    direction: NDArray[np.float32],
    found: Sequence[Scored],
    images: StoredImages,
    encoder: Encoder,
    options: SearchOptions,
) -> tuple[list[Scored], int]:
    """The hits whose own region is most like the query's, best first; of those returned, how many have no image."""
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
    return best, max(0, len(best) - len(compared))


def _patients(
    own: Sequence[Payload], store: VectorStore, radiograph: Radiograph, identity: Identity | None
) -> set[str]:
    """Pseudonyms of the query's patient, under every namespace of the index's datasets."""
    known = {str(payload["patient"]) for payload in own if "patient" in payload}
    if identity is not None and "PatientID" in radiograph.header:
        namespaces = {dataset.namespace for dataset in store.facts.datasets.values()}
        known |= {identity.patient(namespace, radiograph.header["PatientID"].strip()) for namespace in namespaces}
    return known
