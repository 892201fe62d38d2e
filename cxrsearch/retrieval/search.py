"""Image(s) -> hits: read, embed, filter, ask the index; the query's own patient left out."""

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
from cxrsearch.store.images import Pictures

# Hits by the query's region whose own region is looked at.
RERANKED = 200
# Pictures embedded at once.
_BATCH = 32


@dataclass(frozen=True)
class Hit:
    """A neighbour: score is the cosine similarity, -1..1; payload its clinical facts."""

    rank: int
    score: float
    payload: Payload
    id: str = field(default="", compare=False)


@dataclass(frozen=True)
class Asked:
    """An image of the command line. canonical: (S, S), what was embedded; embedding: (D,), of unit length; places:
    (D, h, w), which it is the sum of; patients: its patient's pseudonyms; projection: frontal or lateral, where header
    or index say; indexed: this very file is in the index."""

    path: Path
    image: Radiograph
    canonical: NDArray[np.float32]
    embedding: NDArray[np.float32]
    places: NDArray[np.float32]
    patients: frozenset[str]
    projection: str | None
    indexed: bool


@dataclass(frozen=True)
class Wanted:
    """What is looked for. expression: among which images; limit: how many hits; same_patient: let the query's own
    patient in; region: of the query, compared with the same region of the hits; like, unlike: images beside it."""

    expression: Expression | None = None
    limit: int = 10
    same_patient: bool = False
    region: Region = WHOLE
    like: tuple[Asked, ...] = ()
    unlike: tuple[Asked, ...] = ()


@dataclass(frozen=True)
class Query:
    """What was compared with the hits. ``left_out``: the pseudonyms whose images were not considered; ``direction``:
    (D,) float32 of unit length, the image's embedding unless a region or examples were given; ``parts``: of it, by
    place; ``others``: what every image that may be a hit meets, the --where aside, None where all may."""

    asked: Asked
    left_out: tuple[str, ...]
    direction: NDArray[np.float32]
    parts: Parts
    others: Expression | None


@dataclass(frozen=True)
class Result:
    """unseen: hits without a picture here, whose region could not be compared; they come last, by the whole image."""

    query: Query
    hits: list[Hit]
    unseen: int = 0


def read_query(path: Path, store: VectorStore, encoder: Encoder, identity: Identity | None) -> list[Asked]:
    """The image of a file, embedded; the frames of a file of several, called ``path#2`` and so on behind the first.

    Its patient is known when the file is in the index, or from the DICOM header when there is a pseudonym key.
    Raises ImageError for an image that cannot be read.
    """
    images = read(path, ("PatientID",))
    pictures = [canonical(image, encoder.card.image_size) for image in images]
    encoded = encoder.encode(pictures)
    found = []
    for number, image in enumerate(images):
        same_file = Equals("image_sha256", (image.sha256,))
        own = [point.payload for point in store.scroll(same_file, fields=["patient", "projection"])]
        shown = path if image.frame == 1 else path.with_name(f"{path.name}#{image.frame}")
        patients = frozenset(_patients(own, store, image, identity))
        seen = image.projection or next((str(one["projection"]) for one in own if "projection" in one), None)
        embedding, places = encoded.embedding[number], encoded.places[number]
        found.append(Asked(shown, image, pictures[number], embedding, places, patients, seen, bool(own)))
    return found


def search(asked: Asked, store: VectorStore, encoder: Encoder, wanted: Wanted) -> Result:
    """The most similar radiographs of the index. Images of the query's own patient, and of the examples', are left out
    unless ``same_patient``."""
    like, unlike = wanted.like, wanted.unlike
    together = [asked, *like, *unlike]
    left_out = () if wanted.same_patient else tuple(sorted({name for one in together for name in one.patients}))
    others = None if wanted.same_patient else other_patients((one.image.sha256 for one in together), left_out)
    expression = both(others, wanted.expression)
    whole = parts(asked.places, asked.image, wanted.region)
    unseen = 0
    if like or unlike:
        positives, negatives = ([one.embedding for one in ones] for ones in ([asked, *like], unlike))
        direction = np.sum(positives, axis=0) - np.sum([np.zeros_like(asked.embedding), *negatives], axis=0)
        # The engine's score is a sum of similarities; by this length it is the cosine with what was asked for.
        length = float(np.linalg.norm(direction)) or 1.0
        found = store.recommend(positives, negatives, wanted.limit, expression)
        scored = [Scored(one.id, one.score / length, one.payload) for one in found]
        whole, direction = Parts(whole.places / length), (direction / length).astype(np.float32)
    elif wanted.region != WHOLE:
        direction = whole.total
        found = store.query(direction, max(RERANKED, wanted.limit), expression)
        scored, unseen = _by_region(direction, found, Pictures(store), encoder, wanted)
    else:
        direction = asked.embedding
        scored = store.query(direction, wanted.limit, expression)
    hits = [
        Hit(rank, one.score, {name: value for name, value in one.payload.items() if name != ROW_HASH}, one.id)
        for rank, one in enumerate(scored, start=1)
    ]
    return Result(Query(asked, left_out, direction, whole, others), hits, unseen)


def _by_region(
    direction: NDArray[np.float32], found: Sequence[Scored], pictures: Pictures, encoder: Encoder, wanted: Wanted
) -> tuple[list[Scored], int]:
    """The hits whose own region is most like the query's, best first; of those shown, how many have no picture."""
    looked = [(one, pictures.seen(one.id, one.payload, encoder.card.image_size, quick=True)) for one in found]
    shown = [(one, seen) for one, seen in looked if seen is not None]
    compared: list[Scored] = []
    for start in range(0, len(shown), _BATCH):
        batch = shown[start : start + _BATCH]
        places = encoder.encode([seen.canonical for _, seen in batch]).places
        for (one, seen), own in zip(batch, places, strict=True):
            score = float(parts(own, seen, wanted.region).total @ direction)
            compared.append(Scored(one.id, score, one.payload))
    compared.sort(key=lambda one: -one.score)
    best = [*compared, *(one for one, seen in looked if seen is None)][: wanted.limit]
    return best, max(0, len(best) - len(compared))


def _patients(own: Sequence[Payload], store: VectorStore, image: Radiograph, identity: Identity | None) -> set[str]:
    """Pseudonyms of the query's patient, under every namespace of the index's datasets."""
    known = {str(payload["patient"]) for payload in own if "patient" in payload}
    if identity is not None and "PatientID" in image.header:
        namespaces = {dataset.namespace for dataset in store.facts.datasets.values()}
        known |= {identity.patient(namespace, image.header["PatientID"].strip()) for namespace in namespaces}
    return known
