"""Image(s) -> hits: read, embed, filter, ask the index; the query's own patient left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch import radiograph
from cxrsearch.clinical import ROW_HASH, Payload
from cxrsearch.encoder import Encoder
from cxrsearch.explain import Parts, parts
from cxrsearch.identity import Identity
from cxrsearch.pictures import Pictures
from cxrsearch.radiograph import Radiograph
from cxrsearch.regions import WHOLE, Region
from cxrsearch.store.contract import Scored, VectorStore
from cxrsearch.where import And, Equals, Expression, Not, both

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
class Wanted:
    """What is looked for. expression: among which images; limit: how many hits; same_patient: let the query's own
    patient in; region: of the query, compared with the same region of the hits; like, unlike: images beside it."""

    expression: Expression | None = None
    limit: int = 10
    same_patient: bool = False
    region: Region = WHOLE
    like: tuple[Path, ...] = ()
    unlike: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Query:
    """The image that was asked for. ``indexed``: this very file is in the index; ``left_out``: the pseudonyms whose
    images were not considered; ``embedding``: of the whole image; ``direction``: what was compared with the hits, the
    same unless a region or examples were given, both (D,) float32 of unit length; ``parts``: of the direction, by
    place; ``projection``: frontal or lateral, where its header or the index says; ``others``: what every image that
    may be a hit meets, the --where aside, None where all may."""

    path: Path
    indexed: bool
    left_out: tuple[str, ...]
    embedding: NDArray[np.float32] = field(repr=False, compare=False)
    direction: NDArray[np.float32] = field(repr=False, compare=False)
    parts: Parts = field(repr=False, compare=False)
    image: Radiograph = field(repr=False, compare=False)
    projection: str | None
    others: Expression | None = field(repr=False, compare=False)


@dataclass(frozen=True)
class Result:
    """unseen: hits without a picture here, whose region could not be compared; they come last, by the whole image."""

    query: Query
    hits: list[Hit]
    unseen: int = 0


@dataclass(frozen=True)
class _Asked:
    """An image of the command line, read and embedded."""

    path: Path
    image: Radiograph
    embedding: NDArray[np.float32]
    places: NDArray[np.float32]
    patients: frozenset[str]
    projection: str | None
    indexed: bool


def search(
    paths: Sequence[Path], store: VectorStore, encoder: Encoder, identity: Identity | None, wanted: Wanted
) -> list[Result]:
    """The most similar radiographs of the index to each image.

    A query's patient is known when its file is in the index, or from the DICOM header when there is a pseudonym key;
    its images, and the image itself, are left out unless ``same_patient``; so are those of the examples.
    A file of several radiographs is searched by each; behind the first, ``path#2`` and so on.
    Raises ImageError for an image that cannot be read.
    """
    like, unlike = (
        [one for path in paths_of for one in _asked(path, store, encoder, identity)]
        for paths_of in (wanted.like, wanted.unlike)
    )
    queries = [one for path in paths for one in _asked(path, store, encoder, identity)]
    return [_find(asked, like, unlike, store, encoder, wanted) for asked in queries]


def _find(
    asked: _Asked, like: list[_Asked], unlike: list[_Asked], store: VectorStore, encoder: Encoder, wanted: Wanted
) -> Result:
    together = [asked, *like, *unlike]
    patients = frozenset().union(*(one.patients for one in together))
    others = None if wanted.same_patient else _others(together, patients)
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
    left_out = () if wanted.same_patient else tuple(sorted(patients))
    query = Query(
        asked.path, asked.indexed, left_out, asked.embedding, direction, whole, asked.image,
        asked.projection, others,
    )  # fmt: skip
    return Result(query, hits, unseen)


def _by_region(
    direction: NDArray[np.float32], found: Sequence[Scored], pictures: Pictures, encoder: Encoder, wanted: Wanted
) -> tuple[list[Scored], int]:
    """The hits whose own region is most like the query's, best first; of those shown, how many have no picture."""
    seen = [(one, pictures.quick(one.id, one.payload)) for one in found]
    shown = [(one, picture.image) for one, picture in seen if picture is not None]
    compared: list[Scored] = []
    for start in range(0, len(shown), _BATCH):
        batch = shown[start : start + _BATCH]
        size = encoder.card.image_size
        places = encoder.encode([radiograph.canonical(image, size) for _, image in batch]).places
        for (one, image), own in zip(batch, places, strict=True):
            score = float(parts(own, image, wanted.region).total @ direction)
            compared.append(Scored(one.id, score, one.payload))
    compared.sort(key=lambda one: -one.score)
    best = [*compared, *(one for one, picture in seen if picture is None)][: wanted.limit]
    return best, max(0, len(best) - len(compared))


def _others(together: Sequence[_Asked], patients: frozenset[str]) -> Expression:
    files = tuple(dict.fromkeys(one.image.sha256 for one in together))
    nobody = [Not(Equals("patient", tuple(sorted(patients))))] if patients else []
    return And((Not(Equals("image_sha256", files)), *nobody))


def _asked(path: Path, store: VectorStore, encoder: Encoder, identity: Identity | None) -> list[_Asked]:
    images = radiograph.read(path, ("PatientID",))
    encoded = encoder.encode([radiograph.canonical(image, encoder.card.image_size) for image in images])
    found = []
    for number, image in enumerate(images):
        same_file = Equals("image_sha256", (image.sha256,))
        own = [point.payload for point in store.scroll(same_file, fields=["patient", "projection"])]
        shown = path if image.frame == 1 else path.with_name(f"{path.name}#{image.frame}")
        patients = frozenset(_patients(own, store, image, identity))
        seen = image.projection or next((str(one["projection"]) for one in own if "projection" in one), None)
        found.append(_Asked(shown, image, encoded.embedding[number], encoded.places[number], patients, seen, bool(own)))
    return found


def _patients(own: Sequence[Payload], store: VectorStore, image: Radiograph, identity: Identity | None) -> set[str]:
    """Pseudonyms of the query's patient, under every namespace of the index's datasets."""
    known = {str(payload["patient"]) for payload in own if "patient" in payload}
    if identity is not None and "PatientID" in image.header:
        namespaces = {dataset.namespace for dataset in store.facts.datasets.values()}
        known |= {identity.patient(namespace, image.header["PatientID"].strip()) for namespace in namespaces}
    return known
