"""An index as one file, whichever engine holds it, and back.

A ZIP file of facts.json, points/NNNNNN.jsonl with vectors/NNNNNN.f32 (little-endian float32, one row a point),
thumbnails/ID.jpg, and manifest.json with the sha256 of each of them. Nothing in it is executed, nothing is unpacked to
a path it names.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch.clinical.fields import Payload, Scalar, Value, wrong_type
from cxrsearch.errors import IndexUnavailable, InputError
from cxrsearch.files import replacing
from cxrsearch.store.contract import IndexFacts, Point, VectorStore, check_vectors
from cxrsearch.store.recall import settle

_BATCH = 1_000
_MANIFEST = "manifest.json"
# What a stranger's backup may hold. A part of ours is far smaller, ten million images are more than any archive known
# to us, and what we write packs to a tenth: what packs to a hundredth was made to fill a disk.
_LARGEST_PART = 512 * 2**20
_LARGEST_TEXT = 64 * 2**20
_MOST_POINTS = 10_000_000
_MOST_PARTS = _MOST_POINTS + 2 * (_MOST_POINTS // 100)
_MOST_PACKED = 100


def save(store: VectorStore, file: Path) -> int:
    """Write every point, payload and setting of an index, readable by its owner only; how many points.

    Raises InputError, and IndexUnavailable where the index is damaged: a backup of damage would be restored one day.
    """
    for problem in store.problems():
        raise IndexUnavailable(
            f"{problem}. Nothing was written; restore an earlier backup, or index again (cxrsearch check)."
        )
    sums: dict[str, str] = {}
    count = 0
    with (
        replacing(file, private=True) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):

        def put(name: str, content: bytes) -> None:
            sums[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(name, content)

        put("facts.json", json.dumps(store.facts.as_json()).encode())
        for number, (batch, lines) in enumerate(_parts(store.scroll(vectors=True))):
            put(f"points/{number:06d}.jsonl", "\n".join(lines).encode())
            vectors = np.stack([p.vector for p in batch if p.vector is not None])
            put(f"vectors/{number:06d}.f32", vectors.astype("<f4").tobytes())
            count += len(batch)
            for point in batch:
                if (picture := store.thumbnails.get(point.id)) is not None:
                    put(f"thumbnails/{point.id}.jpg", picture)
        archive.writestr(_MANIFEST, json.dumps(sums))
    return count


def _parts(points: Iterable[Point]) -> Iterator[tuple[list[Point], list[str]]]:
    """Points and their lines, a part at a time: so many, or so much text."""
    batch: list[Point] = []
    lines: list[str] = []
    for point in points:
        batch.append(point)
        lines.append(json.dumps({"id": point.id, "payload": point.payload}, ensure_ascii=False))
        if len(batch) == _BATCH or sum(map(len, lines)) > _LARGEST_TEXT:
            yield batch, lines
            batch, lines = [], []
    if batch:
        yield batch, lines


def fill(store: VectorStore, batches: Iterable[list[Point]], picture: Callable[[str], bytes | None], place: str) -> int:
    """Put points and their thumbnails into a new index, read them back and compare; how many points.

    Raises IndexUnavailable where what is stored is not what was given.
    """
    given, pictures, count = 0, 0, 0
    for batch in batches:
        for point in batch:
            if (found := picture(point.id)) is not None:
                store.thumbnails.put(point.id, found)
                pictures += store.thumbnails.keeps
        store.upsert(batch)
        given ^= _digest(batch)
        count += len(batch)
    settle(store)
    stored = sum(1 for point in store.scroll(fields=[]) if store.thumbnails.has(point.id))
    if _digest(store.scroll(vectors=True)) != given or store.count() != count or stored != pictures:
        raise IndexUnavailable(f"{place}: what was stored is not what was read, so nothing is kept. Is its disk whole?")
    for problem in store.thumbnails.problems():
        raise IndexUnavailable(f"{problem} after it was written, so nothing is kept. Is the disk whole?")
    return count


def _digest(points: Iterable[Point]) -> int:
    """Of points in any order; of two sets the digests' exclusive or."""
    whole = 0
    for point in points:
        assert point.vector is not None
        payload = json.dumps({name: _number(value) for name, value in point.payload.items()}, sort_keys=True)
        content = f"{point.id} {payload} ".encode() + point.vector.astype("<f4").tobytes()
        whole ^= int.from_bytes(hashlib.sha256(content).digest())
    return whole


def _number(value: Value | Scalar) -> Any:
    """An engine may give 38 for 38.0."""
    if isinstance(value, list):
        return [_number(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Backup:
    """A backup file, checked whole when it is opened. Raises InputError."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._archive = zipfile.ZipFile(file)
            self._check_sizes()
            self._sums: dict[str, str] = dict(json.loads(self._part(_MANIFEST)))
            for name, expected in self._sums.items():
                if hashlib.sha256(self._part(name)).hexdigest() != expected:
                    raise InputError(f"{file}: damaged ({name}); use another backup")
            facts: Any = json.loads(self._part("facts.json"))
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        except Exception as error:  # what zipfile, zlib and json raise for damage has no common class
            what = f"{file}: not a backup of cxrsearch, or damaged ({type(error).__name__}); use another backup"
            raise InputError(what) from None
        self.facts = IndexFacts.from_json(facts, str(file))

    def points(self) -> Iterator[list[Point]]:
        """The points, a batch at a time. Raises InputError for what cannot be points of this index."""
        count = 0
        for name in sorted(name for name in self._sums if name.startswith("points/")):
            try:
                lines = [json.loads(line) for line in self._part(name).decode().split("\n")]
                raw = self._part(name.replace("points/", "vectors/").replace(".jsonl", ".f32"))
                vectors = np.frombuffer(raw, dtype="<f4").reshape(len(lines), self.facts.dimensions).astype(np.float32)
                batch = [Point(_id(line), self._payload(line), v) for line, v in zip(lines, vectors, strict=True)]
                check_vectors(batch, self.facts.dimensions)
            except _WrongType as error:
                raise InputError(f"{self.file}: {name} holds {error}; use another backup") from None
            except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError):
                raise InputError(f"{self.file}: {name} holds no points of this index; use another backup") from None
            count += len(batch)
            if len(batch) > _BATCH or count > _MOST_POINTS:
                raise InputError(f"{self.file}: more points than a backup of cxrsearch holds")
            yield batch

    def thumbnail(self, id: str) -> bytes | None:
        """The picture of a point."""
        name = f"thumbnails/{id}.jpg"
        return self._part(name) if name in self._sums else None

    def _payload(self, line: dict[str, Any]) -> Payload:
        payload: Payload = dict(line["payload"])
        if (wrong := wrong_type(payload, self.facts.all_fields)) is not None:
            raise _WrongType(f"a wrong {wrong}")
        for value in payload.values():
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, Scalar):
                    raise TypeError
        return payload

    def _check_sizes(self) -> None:
        parts = self._archive.infolist()
        whole, packed = sum(part.file_size for part in parts), self.file.stat().st_size
        if len(parts) > _MOST_PARTS or whole > _MOST_PACKED * packed or len({p.filename for p in parts}) < len(parts):
            raise InputError(f"{self.file}: {len(parts)} parts of {whole / 2**30:.1f} GiB are no backup of cxrsearch")

    def _part(self, name: str) -> bytes:
        if self._archive.getinfo(name).file_size > _LARGEST_PART:
            raise InputError(f"{self.file}: {name} is too large for a backup of cxrsearch")
        return self._archive.read(name)


def batches(points: Iterator[Point], size: int = _BATCH) -> Iterator[list[Point]]:
    """Lists of at most so many."""
    while batch := list(islice(points, size)):
        yield batch


def _id(line: dict[str, Any]) -> str:
    if str(uuid.UUID(line["id"])) != line["id"]:
        raise ValueError
    return str(line["id"])


class _WrongType(ValueError):
    """A value that is not what the index declares."""
