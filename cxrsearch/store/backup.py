"""An index as one file, whichever engine holds it, and back.

A ZIP file of facts.json, points/NNNNNN.jsonl with vectors/NNNNNN.f32 (little-endian float32, one row a point), and
thumbnails/ID.jpg, and
manifest.json with the sha256 of each of them. Nothing in it is executed, nothing is unpacked to a path it names.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cxrsearch.errors import InputError
from cxrsearch.files import replacing
from cxrsearch.store.contract import IndexFacts, Point, VectorStore

_BATCH = 1_000
_MANIFEST = "manifest.json"
# A batch is far smaller; a part that says more of itself is an attack or damage.
_LARGEST_PART = 512 * 2**20


def save(store: VectorStore, file: Path) -> int:
    """Write every point, payload and setting of an index, readable by its owner only; how many points.

    Raises InputError.
    """
    sums: dict[str, str] = {}
    points, count = store.scroll(vectors=True), 0
    with (
        replacing(file, private=True) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):

        def put(name: str, content: bytes) -> None:
            sums[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(name, content)

        put("facts.json", json.dumps(store.facts.as_json()).encode())
        for number in range(1_000_000):
            batch = list(islice(points, _BATCH))
            if not batch:
                break
            lines = [json.dumps({"id": p.id, "payload": p.payload}, ensure_ascii=False) for p in batch]
            put(f"points/{number:06d}.jsonl", "\n".join(lines).encode())
            vectors = np.stack([p.vector for p in batch if p.vector is not None])
            put(f"vectors/{number:06d}.f32", vectors.astype("<f4").tobytes())
            count += len(batch)
        for id in store.thumbnails.ids():
            if (picture := store.thumbnails.get(id)) is not None:
                put(f"thumbnails/{id}.jpg", picture)
        archive.writestr(_MANIFEST, json.dumps(sums))
    return count


class Backup:
    """A backup file, checked whole when it is opened. Raises InputError."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._archive = zipfile.ZipFile(file)
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
        """The points, a batch at a time."""
        for name in sorted(name for name in self._sums if name.startswith("points/")):
            lines = [json.loads(line) for line in self._part(name).decode().split("\n")]
            raw = self._part(name.replace("points/", "vectors/").replace(".jsonl", ".f32"))
            vectors = np.frombuffer(raw, dtype="<f4").reshape(len(lines), -1).astype(np.float32)
            yield [Point(line["id"], line["payload"], v) for line, v in zip(lines, vectors, strict=True)]

    def thumbnails(self) -> Iterator[tuple[str, bytes]]:
        """Ids of points and their pictures."""
        for name in sorted(name for name in self._sums if name.startswith("thumbnails/")):
            yield name.removeprefix("thumbnails/").removesuffix(".jpg"), self._part(name)

    def _part(self, name: str) -> bytes:
        if self._archive.getinfo(name).file_size > _LARGEST_PART:
            raise InputError(f"{self.file}: {name} is too large for a backup of cxrsearch")
        return self._archive.read(name)
