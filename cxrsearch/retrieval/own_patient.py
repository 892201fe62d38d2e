"""Whose image a query is, as far as its index can know: what a search with it has to leave out.

A file that is in the index is of the patient it has there. Else its header, or its path, has a number, which is read as
the dataset reads its own (clinical/identity.py): that of the folder the file is in, or the one that was named. Equal
numbers of two hospitals are two patients, so a number of a file that could be of either is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Equals, Expression, Or
from cxrsearch.clinical.fields import Payload, values_of
from cxrsearch.clinical.identity import Identity, part_of_path
from cxrsearch.cohort.duplicates import CANDIDATE
from cxrsearch.errors import UsageError
from cxrsearch.imaging.canonical import filled, pixel_digest
from cxrsearch.imaging.perceptual_hash import detail, same_picture
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point, Scored, VectorStore
from cxrsearch.store.images import StoredImages

UNKNOWN = "this file's patient is not known to the index: other images of the patient may be among the hits"
# Where a dataset's numbers are in a table, the header of a new file may have the same.
_PATIENT_ID = "PatientID"
# Images of the own patient whose copies are looked for.
OWN = 4
# Nearest images of each that are compared with it. Those of the query are asked for together with whose it is, and are
# what most searches want.
NEAREST = 10


@dataclass(frozen=True)
class OwnPatient:
    """What an index has of a query's patient.

    patients: pseudonyms.
    digests: the keyed digests of the query's file and of its pixels; empty without a key.
    stored: the payloads of the query's own image, where it is in the index.
    notes: what is not known, and what was done about it.
    images: points of the patients, with vectors: some of them.
    nearest: the points most similar to the query where nothing has to be left out for it; else None.
    """

    patients: frozenset[str] = frozenset()
    digests: tuple[str, ...] = ()
    stored: tuple[Payload, ...] = ()
    notes: tuple[str, ...] = ()
    images: tuple[Point, ...] = ()
    nearest: tuple[Scored, ...] | None = None


def keywords(facts: IndexFacts) -> tuple[str, ...]:
    """The keywords of a header that may hold a patient number of this index."""
    of_datasets = {one.patient.dicom for one in facts.datasets.values() if one.patient and one.patient.dicom}
    return tuple(sorted({_PATIENT_ID, *of_datasets}))


def own_patient(
    path: Path,
    radiograph: Radiograph,
    canonical: NDArray[np.float32],
    embedding: NDArray[np.float32],
    store: VectorStore,
    identity: Identity | None,
    dataset: str | None,
) -> OwnPatient:
    """Of the query in file ``path``. dataset: the one it would belong to, where that was said.

    Raises UsageError for a dataset that the index does not have.
    """
    chosen = _datasets(path, store.facts, dataset)
    if identity is None:
        return OwnPatient(notes=(f"{UNKNOWN} (the pseudonym key is not here; see CXRSEARCH_KEY_FILE)",))
    digests = (identity.file(radiograph.sha256), identity.picture(pixel_digest(canonical)))
    names = {
        namespace: _pseudonyms(path, radiograph.header, identity, datasets)
        for namespace, datasets in _by_namespace(store.facts.datasets).items()
    }
    numbered = tuple(sorted({name for own in names.values() for name in own}))
    known: list[Expression] = [Equals("image_sha256", digests[:1]), Equals("picture", digests[1:])]
    known += [Equals("patient", numbered)] if numbered else []
    # Whatever number the file may have is asked for at once: a request to a server takes longer than the rest of this.
    points, nearest = store.known_or_nearest(Or(tuple(known)), embedding, NEAREST)
    stored = tuple(
        point.payload
        for point in points
        if digests[0] in values_of(point.payload, "image_sha256") or digests[1] in values_of(point.payload, "picture")
    )
    patients = frozenset(str(one["patient"]) for one in stored if "patient" in one)
    if stored and dataset is None:
        of_stored = {str(one["dataset"]) for one in stored}
        chosen = {name: one for name, one in store.facts.datasets.items() if name in of_stored}
    by_number, notes = _by_number(path, radiograph.header, points, identity, chosen)
    own = patients | by_number
    images = tuple(point for point in points if point.payload.get("patient") in own)
    if not patients <= set(numbered):  # the index has the image as another patient's, who may have more
        images = tuple(islice(store.scroll(Equals("patient", tuple(sorted(own))), vectors=True), OWN))
    nobodys = None if nearest is None else tuple(nearest)
    return OwnPatient(own, digests, stored, () if patients else notes, images[:OWN], nobodys)


def _datasets(path: Path, facts: IndexFacts, named: str | None) -> Mapping[str, DatasetFacts]:
    """The datasets that a new file may belong to."""
    if named is not None:
        if named not in facts.datasets:
            raise UsageError(f"--dataset {named}: not in this index. Its datasets: {', '.join(facts.datasets)}.")
        return {named: facts.datasets[named]}
    whole = path.resolve()
    around = {name: one for name, one in facts.datasets.items() if one.root and whole.is_relative_to(one.root)}
    if around:
        nearest = max(len(one.root) for one in around.values())
        return {name: one for name, one in around.items() if len(one.root) == nearest}
    return facts.datasets


def _by_namespace(datasets: Mapping[str, DatasetFacts]) -> Mapping[str, Mapping[str, DatasetFacts]]:
    found: dict[str, dict[str, DatasetFacts]] = {}
    for name, one in datasets.items():
        found.setdefault(one.namespace, {})[name] = one
    return found


def _pseudonyms(
    path: Path, header: Mapping[str, str], identity: Identity, datasets: Mapping[str, DatasetFacts]
) -> set[str]:
    """What the file's own number is in datasets of one namespace."""
    numbers = {(one.namespace, _number(path, header, one)) for one in datasets.values()}
    return {identity.patient(namespace, number) for namespace, number in numbers if number is not None}


def _by_number(
    path: Path,
    header: Mapping[str, str],
    points: Sequence[Point],
    identity: Identity,
    datasets: Mapping[str, DatasetFacts],
) -> tuple[frozenset[str], tuple[str, ...]]:
    """The patient that the file's own number gives, and what has to be said of it."""
    stored = {point.payload.get("patient") for point in points}
    found = {namespace: _pseudonyms(path, header, identity, of) for namespace, of in _by_namespace(datasets).items()}
    known = {namespace: names for namespace, names in found.items() if not names.isdisjoint(stored)}
    if not known:
        return frozenset(), (UNKNOWN,)
    hospitals = {one.namespace for one in datasets.values()}
    of = {namespace: ", ".join(n for n, one in datasets.items() if one.namespace == namespace) for namespace in known}
    if len(known) > 1:
        return frozenset(), (
            f"this file's patient number is one of {' and one of '.join(of.values())}: nobody was left out for it;"
            " say with --dataset whose file it is",
        )
    ((namespace, names),) = known.items()
    notes = []
    if len(hospitals) > 1:
        notes.append(
            f"this file's patient number was taken for one of {of[namespace]}; --dataset says whose file it is"
        )
    return frozenset(names), tuple(notes)


def _number(path: Path, header: Mapping[str, str], dataset: DatasetFacts) -> str | None:
    numbering = dataset.patient
    if numbering is None:
        return None
    if numbering.path is not None:
        if not dataset.root or not path.resolve().is_relative_to(dataset.root):
            return None
        return numbering.number(part_of_path(path.resolve().relative_to(dataset.root).as_posix(), numbering.path))
    return numbering.number(header.get(numbering.dicom or _PATIENT_ID, ""))


@dataclass(frozen=True)
class Copies:
    """Images of the index, whoever's they are said to be, that are the same picture as one of the own patient's.

    pictures: their keyed digests. patients: of those that are the query's own picture.
    nearest: the images most similar to the query that were looked through, best first.
    """

    pictures: frozenset[str] = frozenset()
    patients: frozenset[str] = frozenset()
    nearest: tuple[Scored, ...] = ()


def copies(
    canonical: NDArray[np.float32],
    radiograph: Radiograph,
    embedding: NDArray[np.float32],
    own: OwnPatient,
    store: VectorStore,
    others: Expression | None,
    nearest: Sequence[Scored] | None = None,
) -> Copies:
    """Stored anew at another size, in another format or under another name. others: what is not the own patient's;
    nearest: of these the most similar to the query, where they are known already, as nobody is the own patient."""
    images, size = StoredImages(store), len(canonical)
    mine = [(embedding, detail(filled(canonical, radiograph.width, radiograph.height)))]
    for point in own.images:
        image = images.hit_image(point.id, point.payload, size, quick=True)
        if image is not None and point.vector is not None:
            mine.append((point.vector, detail(filled(image.canonical, image.width, image.height))))
    pictures: set[str] = set()
    patients: set[str] = set()
    details: dict[str, NDArray[np.float32] | None] = {}
    looked = [nearest] if nearest is not None else store.query_each([vector for vector, _ in mine], NEAREST, others)
    for number, ((_, own_detail), found) in enumerate(zip(mine, looked, strict=True)):
        for near in found:
            if near.score < CANDIDATE:
                break
            if near.id not in details:
                image = images.hit_image(near.id, near.payload, size, quick=True)
                details[near.id] = None if image is None else detail(filled(image.canonical, image.width, image.height))
            other_detail = details[near.id]
            if other_detail is None or not same_picture(own_detail, other_detail):
                continue
            pictures |= {str(picture) for picture in values_of(near.payload, "picture")}
            if number == 0 and "patient" in near.payload:
                patients.add(str(near.payload["patient"]))
    return Copies(frozenset(pictures), frozenset(patients), tuple(looked[0]))
