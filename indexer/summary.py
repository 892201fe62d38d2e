"""What is said of a run of index when it ends: counts, rejections, and what the index then has of the dataset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cxrsearch.clinical.expression import And, Equals, Missing
from cxrsearch.errors import InputError, Reason
from cxrsearch.store.contract import VectorStore
from indexer.dataset import Dataset

# Values that a filter asks for at once.
_AT_ONCE = 128
# Files looked at before the share of rejected ones is held against the mapping.
_BEFORE_JUDGING = 100


@dataclass(frozen=True)
class Rejection:
    """A file that was left out. path: relative to the dataset's root, or a token; row: of the table, if any."""

    path: str
    reason: Reason
    message: str
    row: int | None


@dataclass
class Summary:
    """How a run went. unusable: DICOM values, by field, that were no value of the field's type; gone: indexed
    images that the dataset no longer has; pruned: whether those were deleted; unknown: the dataset's images without a
    patient number; repeated: pictures that the index has more than once, the dataset's among them: where; absent:
    images that are neither in the index nor in the files of embeddings that it is filled from; first_absent: one."""

    total: int
    indexed: int = 0
    updated: int = 0
    unchanged: int = 0
    forgotten: int = 0
    gone: int = 0
    pruned: bool = False
    unknown: int = 0
    repeated: list[list[str]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    absent: int = 0
    first_absent: str = ""
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def seen(self) -> int:
        return self.indexed + self.updated + self.unchanged + self.forgotten + self.rejected.total()

    def refusal(self, seen: int, max_rejected: float) -> InputError | None:
        """Why the run is to end, where more than this share of ``seen`` files was rejected."""
        bad = self.rejected.total()
        if seen < _BEFORE_JUDGING or bad <= max_rejected * seen:
            return None
        reason, number = self.rejected.most_common(1)[0]
        return InputError(
            f"{bad} of the first {seen} files were rejected, {number} of them as {reason}: the mapping or --root is"
            " probably wrong. If it is not, raise --max-rejected."
        )


def unknown_patients(store: VectorStore, dataset: Dataset) -> int:
    """How many images of the dataset have no patient number."""
    return store.count(And((Equals("dataset", (dataset.mapping.name,)), Missing("patient"))))


def repeated(store: VectorStore, dataset: Dataset) -> list[list[str]]:
    """Where each picture is that the dataset has and the index has more than once."""
    name = dataset.mapping.name
    several = [str(picture) for picture, number in store.values("picture").items() if number > 1]
    places: dict[str, list[tuple[str, str]]] = {}
    for start in range(0, len(several), _AT_ONCE):
        which = Equals("picture", tuple(several[start : start + _AT_ONCE]))
        for point in store.scroll(which, fields=["picture", "dataset", "path"]):
            place = (str(point.payload["dataset"]), str(point.payload["path"]))
            places.setdefault(str(point.payload["picture"]), []).append(place)
    own = (sorted(where) for where in places.values() if any(dataset == name for dataset, _ in where))
    return [[f"{dataset} {path}" for dataset, path in where] for where in sorted(own)]
