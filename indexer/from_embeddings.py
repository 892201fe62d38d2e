"""Files of embeddings in the place of reading and embedding: as an engine of the pipeline.

Every file is opened, and its ids are held against each other, before the first row is stored. A row is looked at when
it is: a stranger's file may hold anything.
"""

from __future__ import annotations

import glob
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.identity import Identity
from cxrsearch.errors import ImageError, InputError, ModelMismatch, Reason
from cxrsearch.imaging.isolated import Broken, Isolated
from cxrsearch.model_card import ModelCard
from cxrsearch.store.contract import UNIT_TOLERANCE
from cxrsearch.store.thumbnails import is_thumbnail
from cxrsearch.text import clean
from indexer.dataset import Dataset
from indexer.embeddings_file import MOST_PARTS, Provenance
from indexer.given_facts import GivenFacts
from indexer.points import EmbeddedFile, EmbeddedImage, PointMaker
from indexer.readers import Outcome, Task

WORK = "indexer.embeddings_file:work"
# Groups kept: parts are in the dataset's order, so that one is read after the other.
_GROUPS = 4
# Parts that a message names.
_SHOWN = 10
log = logging.getLogger("cxrsearch")


@dataclass(frozen=True)
class _Place:
    """Where an image is. row: in its file, from 0."""

    file: int
    row: int


@dataclass(frozen=True)
class _Group:
    """Rows of a file. start: the first one's number; texts: by column, an item a row."""

    start: int
    ids: bytes
    frames: NDArray[np.int32]
    has_vector: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    texts: dict[str, list[str | None]]
    thumbnails: list[bytes | None]


@dataclass(frozen=True)
class _File:
    """An opened file. starts: the number of each group's first row, and of the row behind the last."""

    path: Path
    starts: list[int]


class EmbeddingsFiles:
    """The files of embeddings of one dataset by one model, whose ids are checked when they are opened.

    reader: a process for WORK, by default a new one. Raises InputError for what is no such file, and ModelMismatch for
    another model's.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        dataset: Dataset,
        identity: Identity,
        card: ModelCard,
        reader: Isolated | None = None,
    ) -> None:
        self._points, self._card = PointMaker(dataset, identity), card
        self._facts = GivenFacts(self._points)
        self._reader = reader or Isolated(WORK)
        self._places: dict[bytes, _Place] = {}
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()
        self._files: list[_File] = []
        parts = [self._open(path) for path in _paths(patterns)]
        _tell_missing({one.part for one in parts})

    def read(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome | EmbeddedFile | None]]:
        for task in tasks:
            id = self._points.id(task.record)
            place = self._places.get(UUID(id).bytes)
            if task.record.problem is not None:
                yield task, task.record.problem
            else:
                yield task, None if place is None else self._outcome(task, id, place)

    def stop(self) -> None:
        self._reader.stop()

    # -------------------------------------------------------------- opening

    def _open(self, path: Path) -> Provenance:
        first_answer, *answers = self._ask(path, ("open", path.absolute()))
        said = self._provenance(path, first_answer[0]["provenance"])
        number, starts, previous, frame = len(self._files), [0], b"", 0
        for facts, (ids, frames) in answers:
            for row, this in enumerate(np.frombuffer(frames, np.int32).tolist(), start=starts[-1]):
                at = (row - starts[-1]) * 16
                id = bytes(ids[at : at + 16])
                if this not in (0, 1) and (id, this) != (previous, frame + 1 if frame > 0 else 1):
                    self._refuse(path, row, f"frame {this} where another was due")
                if this <= 1 and (first := self._places.setdefault(id, _Place(number, row))) != _Place(number, row):
                    other = path if first.file == number else self._files[first.file].path
                    what = f"the image of row {first.row + 1} of {other} again"
                    raise InputError(f"{path}: row {row + 1} has {what}. Give each part once, all of one --part M/N.")
                previous, frame = id, this
            starts.append(starts[-1] + facts["rows"])
        self._files.append(_File(path, starts))
        return said

    def _provenance(self, path: Path, said: Any) -> Provenance:
        """What the file is of, where that is what it has to be of."""
        points, card, again = self._points, self._card, "embed again, with cxrsearch embed"
        try:
            (part, parts), images = map(int, said["part"]), int(said["images"])
            texts = {name: clean(str(said[name])) for name in ("dataset", "model", "fingerprint", "key", "reading")}
            own = Provenance(**texts, dimensions=int(said["dimensions"]), part=(part, parts), images=images)
            possible = 1 <= part <= parts <= MOST_PARTS
        except (KeyError, TypeError, ValueError, OverflowError):
            possible = False
        if not possible:
            raise InputError(f"{path}: does not say what it is of; {again}")
        name = points.mapping.name
        if own.dataset != name:
            raise InputError(f"{path}: of the dataset {own.dataset[:64]}, not of {name}; see --name")
        if (own.fingerprint, own.dimensions) != (card.fingerprint, card.dimensions):
            raise ModelMismatch(
                f"{path}: by model {own.model[:64]} ({own.fingerprint[:12]}), not by {card.name}"
                f" ({card.fingerprint[:12]}). Give that model with --model, or {again}."
            )
        if own.key != points.identity.embeddings(name):
            what = "was made with another key of pseudonyms, so that none of its images is known here"
            raise InputError(f"{path}: {what}. Set CXRSEARCH_KEY_FILE to that key, or {again}.")
        if own.reading != points.reading():
            what = "the mapping's DICOM fields or [privacy] are others than when this was embedded"
            raise InputError(f"{path}: {what}. Restore them, or {again}.")
        return own

    # -------------------------------------------------------------- one image

    def _outcome(self, task: Task, id: str, place: _Place) -> Outcome | EmbeddedFile:
        path = self._files[place.file].path
        group = self._group(place)
        at = place.row - group.start
        if group.frames[at] == 0:
            return self._rejection(task, id, path, place.row, group.texts["reason"][at], group.texts["message"][at])
        images, row = [self._image(path, place.row, group)], place.row + 1
        while row < self._files[place.file].starts[-1]:
            group = self._group(_Place(place.file, row))
            if group.frames[row - group.start] <= 1:
                break
            images.append(self._image(path, row, group))
            row += 1
        return EmbeddedFile(images)

    def _rejection(
        self, task: Task, id: str, path: Path, row: int, reason: str | None, message: str | None
    ) -> ImageError:
        if reason not in list(Reason) or message is None:
            self._refuse(path, row, "rejected, and no reason that there is")
        return ImageError(Reason(reason), clean(message).replace(id, task.label))

    def _image(self, path: Path, row: int, group: _Group) -> EmbeddedImage:
        at = row - group.start
        vector, thumbnail = group.vectors[at], group.thumbnails[at]
        length = float(np.linalg.norm(vector.astype(np.float64))) if group.has_vector[at] else 0.0
        if not abs(length - 1) < UNIT_TOLERANCE:  # also false for NaN and infinity
            self._refuse(path, row, f"an embedding of length {length:.4g}, not 1")
        if thumbnail is not None and not is_thumbnail(thumbnail):
            self._refuse(path, row, "a thumbnail that is none")
        try:
            facts = self._facts.read(group.texts["facts"][at])
        except ValueError as error:
            self._refuse(path, row, str(error))
        if facts.get("frame", 1) != group.frames[at]:
            self._refuse(path, row, "a frame that its facts call another")
        return EmbeddedImage(facts, vector, thumbnail)

    # -------------------------------------------------------------- groups of rows

    def _group(self, place: _Place) -> _Group:
        file = self._files[place.file]
        number = int(np.searchsorted(file.starts, place.row, side="right")) - 1
        if (group := self._groups.get((place.file, number))) is not None:
            self._groups.move_to_end((place.file, number))
            return group
        [(facts, contents)] = self._ask(file.path, ("group", file.path.absolute(), number))
        group = self._groups[place.file, number] = self._checked(file.path, file.starts[number], facts, contents)
        if len(group.frames) != file.starts[number + 1] - file.starts[number]:
            raise InputError(f"{file.path}: changed while it was read; run this again")
        if len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)
        return group

    def _checked(self, path: Path, start: int, facts: dict[str, Any], contents: list[bytearray]) -> _Group:
        ids, frames, is_there, numbers, *pictures = contents
        number, dimensions = int(facts["rows"]), self._card.dimensions
        has_vector = np.frombuffer(is_there, np.bool_)
        vectors = np.zeros((number, dimensions), np.float32)
        vectors[has_vector] = np.frombuffer(numbers, np.float32).reshape(-1, dimensions)
        parts = iter(pictures)
        thumbnails = [bytes(next(parts)) if there else None for there in facts["thumbnails"]]
        group = _Group(
            start, bytes(ids), np.frombuffer(frames, np.int32), has_vector, vectors, facts["texts"], thumbnails
        )
        for row in range(number):  # the file that was opened may have been replaced since
            first, id = group.frames[row] <= 1, group.ids[row * 16 : row * 16 + 16]
            place = self._places.get(id)
            if first and (place is None or place.row != start + row or self._files[place.file].path != path):
                raise InputError(f"{path}: changed while it was read; run this again")
        return group

    def _ask(self, path: Path, request: object) -> list[tuple[dict[str, Any], list[bytearray]]]:
        try:
            answers = list(self._reader.ask(request))
        except Broken:
            what = "reading it takes more memory or time than any file of embeddings"
            raise InputError(f"{path}: {what}. Embed this part again.") from None
        for facts, _ in answers:
            if "problem" in facts:
                raise InputError(f"{path}: {clean(str(facts['problem']))}. Embed this part again.")
        return answers

    def _refuse(self, path: Path, row: int, what: str) -> NoReturn:
        raise InputError(f"{path}: row {row + 1} has {what}. Embed this part again.")


def _paths(patterns: Sequence[str]) -> list[Path]:
    """The files that names and patterns mean, in order."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        # A name is taken as it is, though a bracket in it may look like a pattern.
        names = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))  # noqa: PTH207 - may be absolute
        if not names:
            raise InputError(f"--embeddings {pattern}: no such file. A pattern stands in quotes: 'part-*.parquet'")
        found |= dict.fromkeys(map(Path, names))
    return list(found)


def _tell_missing(parts: set[tuple[int, int]]) -> None:
    """Say which parts there are beside these, where they are parts of one whole."""
    of = {several for _, several in parts}
    if len(of) == 1 and len(parts) < (whole := max(of)):
        missing = (part for part in range(1, whole + 1) if (part, whole) not in parts)
        named, number = ", ".join(map(str, islice(missing, _SHOWN))), whole - len(parts)
        more = f" and {number - _SHOWN} more" if number > _SHOWN else ""
        log.warning(f"note: parts {named}{more} of {whole} are not among the files")
