"""What the Python API gives: values to look at in a notebook, and to take as frames and arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Field, Payload
from cxrsearch.report.frames import frame, shown_fields
from cxrsearch.retrieval.answer import Answer
from cxrsearch.retrieval.search import Hit
from cxrsearch.voting.vote import Vote

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Hits(Sequence[Hit]):
    """The images that a search found, best first.

    A sequence of `Hit`. In a notebook it shows the query and the hits with their
    pictures.

    Attributes:
        answer: everything that was found out about the query.
    """

    answer: Answer
    _fields: Mapping[str, Field] = field(compare=False)
    _votes: Callable[[str], Vote] = field(compare=False)

    @property
    def query(self) -> Path | str:
        """The file that was searched with, or the text."""
        query = self.answer.result.query
        return query.name if query.image is None else query.image.path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader of these hits has to be warned of, a sentence each."""
        return self.answer.warnings

    def vote(self, field: str) -> Vote:
        """What the nearest patients say of a keyword or boolean field.

        The voters are the nearest patients of the cohort that was searched, not these hits alone. The vote has shares
        and, where the index was calibrated and nothing speaks against it, probabilities in 0..1.

        Raises:
            UsageError: for a field that the index does not have, or of another type, and for hits of a text.
        """
        return self._votes(field)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each hit: ``rank`` (from 1), ``score`` (cosine similarity, -1..1), and its facts, each column of
        its field's type; missing facts are missing."""
        facts = frame([hit.payload for hit in self], shown_fields(self._fields), [hit.id for hit in self])
        facts.insert(0, "score", np.array([hit.score for hit in self], dtype=np.float64))
        facts.insert(0, "rank", np.array([hit.rank for hit in self], dtype=np.int64))
        return facts

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Hit]: ...
    def __getitem__(self, place: int | slice) -> Hit | Sequence[Hit]:
        return self.answer.result.hits[place]

    def __len__(self) -> int:
        return len(self.answer.result.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.answer.result.hits)

    def __repr__(self) -> str:
        nearest = f", the nearest at {self[0].score:.4f}" if self else ""
        name = self.query.name if isinstance(self.query, Path) else self.query
        return f"<{len(self)} hits for {name!r}{nearest}>"

    def _repr_html_(self) -> str:
        from cxrsearch.report.notebook import hits_html

        return hits_html(self.answer, self._fields)


@dataclass(frozen=True, repr=False)
class Cohort:
    """The images that meet a filter.

    Attributes:
        ids: of the images, in the order of the rows.
    """

    ids: tuple[str, ...]
    _payloads: tuple[Payload, ...]
    _fields: Mapping[str, Field]

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each image, by id: its facts, each column of its field's type; missing facts are missing."""
        return frame(self._payloads, shown_fields(self._fields), self.ids)

    @property
    def patients(self) -> int:
        """How many different patients; images without a patient number belong to none."""
        return len({payload["patient"] for payload in self._payloads if "patient" in payload})

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{len(self)} images of {self.patients} patients>"


@dataclass(frozen=True, repr=False)
class Embeddings:
    """The vectors of images, with what is known of them.

    Attributes:
        ids: N of them.
        vectors: (N, D) float32, each row of unit length.
        facts: a frame of N rows, in the same order.
    """

    ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    facts: pandas.DataFrame

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{len(self)} embeddings of {self.vectors.shape[1]} dimensions>"
