"""What an index can do, whichever engine holds it, and the facts every index keeps about itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import SYSTEM_FIELDS, Field, FieldType, Payload, Scalar
from cxrsearch.clinical.identity import Identity, Numbering, as_written
from cxrsearch.errors import IndexUnavailable, InputError, ModelMismatch
from cxrsearch.store.graph import Effort, Graph
from cxrsearch.store.placement import Placement
from cxrsearch.store.replication import Replication
from cxrsearch.store.thumbnails import Thumbnails
from cxrsearch.text import tidy

FORMAT = 2
# More than any encoder gives.
_MOST_DIMENSIONS = 65_536
# A unit vector in float32 is off by rounding only.
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class DatasetFacts:
    """One dataset of an index.

    namespace: whose patient numbers; equal numbers of two namespaces are two patients.
    root: the folder that the points' paths are relative to, empty where they are hashed.
    identifiers: DICOM attributes that can identify a patient and were let in all the same.
    patient: where its patient numbers are and how they are read; None where it has none.
    place: a token of its folder (identity.py), which tells it from another dataset of the same name.
    """

    namespace: str
    root: str
    identifiers: tuple[str, ...] = ()
    patient: Numbering | None = None
    place: str = ""


@dataclass(frozen=True)
class IndexFacts:
    """What an index says of itself. ``fields`` are the declared ones, without the system fields."""

    model: str
    fingerprint: str
    dimensions: int
    fields: Mapping[str, Field]
    datasets: Mapping[str, DatasetFacts]
    forgotten: frozenset[str] = frozenset()  # what identity.forgotten() gives of each
    calibration: Mapping[str, Any] | None = None  # what voting/calibration.py learnt of this index
    nearness: Mapping[str, Any] | None = None  # what voting/nearness.py did
    graph: Graph | None = None  # what recall.py measured; None: every point is compared
    placement: Placement | None = None  # on a cluster; a folder's is for the next copy to one

    @cached_property
    def all_fields(self) -> Mapping[str, Field]:
        return {**SYSTEM_FIELDS, **self.fields}

    @cached_property
    def booleans(self) -> Sequence[str]:
        """The names of the fields that are true or false."""
        return [name for name, field in self.all_fields.items() if field.type is FieldType.BOOLEAN]

    def check_model(self, name: str, fingerprint: str, dimensions: int | None = None) -> None:
        """Raises ModelMismatch when the index was made by another model, and IndexUnavailable when it says that it was
        made by this one and has vectors of other ``dimensions`` than this one gives."""
        if fingerprint != self.fingerprint:
            raise ModelMismatch(
                f"the index was made by model {self.model} ({self.fingerprint[:12]}),"
                f" not by {name} ({fingerprint[:12]})."
                " Give that model with --model, or make a new index by this one: cxrsearch reembed"
                " INDEX --model MODEL --to INDEX2"
            )
        if dimensions not in (None, self.dimensions):
            raise IndexUnavailable(
                f"the index says that {name} made it, and has vectors of {self.dimensions} dimensions where that gives"
                f" {dimensions}: its settings are damaged. Restore it or index again."
            )

    def declaring(
        self, name: str, dataset: DatasetFacts, fields: Mapping[str, Field], moved: bool = False
    ) -> IndexFacts:
        """These facts with one more dataset. ``moved``: it may be one that the index has from another folder.

        Raises InputError for another folder of a known name, and where a field would change its type.
        """
        before = self.datasets.get(name)
        if before is not None and before.place and before.place != dataset.place and not moved:
            where = f" of {before.root}" if before.root else ""
            raise InputError(
                f"the index has a dataset {name!r}{where}, and this is another folder. Give it a name of its own with"
                f" --name, or say --name {name} if the same images were moved."
            )
        merged = dict(self.fields)
        for field in fields.values():
            known = merged.get(field.name)
            if known is not None and known.type is not field.type:
                raise InputError(
                    f"field {field.name!r} is a {known.type} in this index and a {field.type} in dataset {name!r}."
                    " Rename the field in the dataset TOML or use another index."
                )
            if known is not None and known.unit and field.unit and known.unit != field.unit:
                raise InputError(
                    f"field {field.name!r} is in {known.unit} in this index and in {field.unit} in dataset {name!r}."
                    " Rename the field in the dataset TOML or use another index."
                )
            merged[field.name] = replace(
                field,
                several=field.several or (known is not None and known.several),
                later=field.later or (known is not None and known.later),
                unit=field.unit or (known.unit if known is not None else None),
            )
        return replace(self, fields=merged, datasets={**self.datasets, name: dataset})

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "forgotten": sorted(self.forgotten)}

    @classmethod
    def from_json(cls, data: Any, place: str) -> IndexFacts:
        """Raises IndexUnavailable for facts of another format, or none at all."""
        if not isinstance(data, dict) or "format" not in data:
            raise IndexUnavailable(f"{place}: not a cxrsearch index. Make one with cxrsearch index.")
        if data["format"] == 1:
            raise IndexUnavailable(
                f"{place}: made by an older cxrsearch, which kept digests without the key and did not keep how patient"
                " numbers are read. Index the images again into a new index and delete this one."
            )
        if data["format"] != FORMAT:
            raise IndexUnavailable(
                f"{place}: index format {str(data['format'])[:20]!r}, this version reads format {FORMAT}."
                " Use the cxrsearch that made it, or index again."
            )
        try:
            if not 1 <= int(data["dimensions"]) <= _MOST_DIMENSIONS:
                raise ValueError
            return cls(
                model=str(data["model"]),
                fingerprint=str(data["fingerprint"]),
                dimensions=int(data["dimensions"]),
                fields={
                    n: Field(
                        n,
                        FieldType(f["type"]),
                        bool(f["several"]),
                        bool(f.get("later", False)),
                        None if f.get("unit") is None else str(f["unit"]),
                    )
                    for n, f in data["fields"].items()
                },
                datasets={
                    n: DatasetFacts(
                        str(d["namespace"]),
                        str(d["root"]),
                        tuple(map(str, d["identifiers"])),
                        Numbering.from_json(d["patient"]),
                        str(d["place"]),
                    )
                    for n, d in data["datasets"].items()
                },
                forgotten=frozenset(map(str, data["forgotten"])),
                calibration=None if data.get("calibration") is None else dict(data["calibration"]),
                nearness=None if data.get("nearness") is None else dict(data["nearness"]),
                graph=Graph.from_json(data.get("graph")),
                placement=Placement.from_json(data.get("placement")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise IndexUnavailable(f"{place}: its settings are damaged. Restore it or index again.") from None

    @classmethod
    def from_text(cls, text: str, place: str) -> IndexFacts:
        try:
            return cls.from_json(json.loads(text), place)
        except (json.JSONDecodeError, RecursionError):
            raise IndexUnavailable(f"{place}: its settings are damaged. Restore it or index again.") from None


def named_patients(text: str, datasets: Mapping[str, DatasetFacts], identity: Identity) -> set[str]:
    """The pseudonyms that a text may mean: itself; its number as each dataset reads it, or did; as it stands."""
    names = {text}
    for one in datasets.values():
        if one.patient is not None:
            numbers = {one.patient.number(text) or "", tidy(text)} - {""}
            written = numbers if one.patient.dicom else {form for number in numbers for form in as_written(number)}
            names |= {identity.patient(one.namespace, number) for number in written}
    return names


@dataclass(frozen=True)
class Point:
    """One indexed image. id: a UUID as text; vector: (D,) float32 of unit length, None when not asked for."""

    id: str
    payload: Payload
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Scored:
    """A neighbour: score is the cosine similarity, -1..1; of ``recommend`` the sum that it says."""

    id: str
    score: float
    payload: Payload


# (D,) float32 of unit length.
Vector = NDArray[np.float32]
# Points that are known, with vectors; and where there are none the nearest, else None.
KnownOrNearest = tuple[Sequence[Point], Sequence[Scored] | None]


class VectorStore(Protocol):
    """An open index. Points, payloads and facts survive a crash once the call that stored them returned."""

    facts: IndexFacts
    thumbnails: Thumbnails

    def check_writable(self) -> None:
        """Raises IndexUnavailable where this process may only read."""
        ...

    def declare(self, facts: IndexFacts) -> None:
        """Make these the facts of the index; payload indexes of new fields exist before they are."""
        ...

    def reload(self) -> None:
        """Take over what other processes have declared since. A folder has one writer."""
        ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Store points; a point of the same id is replaced. Raises ValueError for vectors that are not
        (D,), finite and of unit length."""
        ...

    def set_payloads(self, payloads: Mapping[str, Payload]) -> None:
        """Replace the whole payload of points that are there, by id; their vectors stay."""
        ...

    def query(
        self,
        vector: NDArray[np.float32],
        limit: int,
        expression: Expression | None = None,
        effort: Effort | None = None,
    ) -> list[Scored]:
        """The most similar points that meet the expression, best first; of equal scores by id. effort: how hard to
        look; by default as the facts say."""
        ...

    def query_each(self, vectors: Sequence[Vector], limit: int, expression: Expression | None) -> list[list[Scored]]:
        """As :meth:`query`, for each of several vectors. One request to a server."""
        ...

    def recommend(
        self,
        positives: Sequence[NDArray[np.float32]],
        negatives: Sequence[NDArray[np.float32]],
        limit: int,
        expression: Expression | None = None,
    ) -> list[Scored]:
        """The points most like the positive examples and least like the negative ones, best first.

        Their score is the sum of the similarities to the positives less that to the negatives (Qdrant's sum_scores).
        At least one positive; every example (D,) float32 of unit length. Every point is compared.
        """
        ...

    def scroll(
        self, expression: Expression | None = None, fields: Collection[str] | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        """Every point that meets the expression, in order of id. ``fields``: only these of the payload."""
        ...

    def known_or_nearest(self, known: Expression, vector: Vector, limit: int) -> KnownOrNearest:
        """Every point that meets ``known``, with its vector; and where there is none, the most similar points to
        ``vector``, else None. One request to a server."""
        ...

    def count(self, expression: Expression | None = None) -> int: ...

    def values(self, field: str, expression: Expression | None = None) -> Mapping[Scalar, int]:
        """The values of a keyword or boolean field and how many of the points that meet the expression have each, the
        most frequent first; of equal counts by value. A value that none has is not among them."""
        ...

    def delete(self, expression: Expression) -> int:
        """Delete every point that meets the expression, with its thumbnail; how many they were."""
        ...

    def erase(self, expression: Expression, facts: IndexFacts) -> int:
        """Delete as :meth:`delete` does and make these the facts, both or neither, leaving no bytes of the points
        behind, where the engine is ours to say."""
        ...

    def remains(self) -> Sequence[str]:
        """Where bytes of what :meth:`erase` deleted may be all the same, a sentence each."""
        ...

    def optimise(self, graph: bool = False) -> None:
        """Put the engine's files in order when a bulk job ends. graph: build one over all points, so far as the engine
        can. recall.py decides when, and measures it."""
        ...

    def in_graph(self) -> int:
        """How many points the engine has in a graph, deleted ones perhaps among them."""
        ...

    def size_bytes(self) -> int | None:
        """Space on disk; None when the engine does not say."""
        ...

    def replication(self) -> Replication | None:
        """How a cluster keeps the index now; None where none does, or it does not say."""
        ...

    def problems(self) -> Iterator[str]:
        """What is damaged or missing on this machine, a file a line. Reads every byte."""
        ...

    def close(self) -> None:
        """Give back the files; what was written is published."""
        ...

    def abandon(self) -> None:
        """Instead of :meth:`close`, of an index made unpublished: leave nothing of it."""
        ...


def check_vectors(points: Sequence[Point], dimensions: int) -> list[NDArray[np.float32]]:
    """The vectors of points, fit to be stored. Raises ValueError: engines accept NaN silently."""
    vectors = []
    for point in points:
        vector = point.vector
        if vector is None or vector.shape != (dimensions,):
            shape = None if vector is None else vector.shape
            raise ValueError(f"point {point.id}: vector of shape {shape}, the index holds ({dimensions},)")
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not abs(length - 1.0) < UNIT_TOLERANCE:  # also false for NaN and infinity
            raise ValueError(f"point {point.id}: vector of length {length}, not 1")
        vectors.append(vector)
    return vectors
