"""An index in a folder: one Qdrant Edge shard, searched in this process.

    INDEX/index.json   the facts
    INDEX/shard/       the engine's files
    INDEX/lock         shared by readers, exclusive for the writer
    INDEX/thumbnails/  a small picture of each image (thumbnails.py)
    INDEX/manifest.json  what the files were when the writer closed them (manifest.py)

The shard has no write-ahead log, whose lock would keep a second reader out; instead every write is
flushed before it returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Expression, Not
from cxrsearch.clinical.fields import Field, FieldType, Payload, Scalar, Value
from cxrsearch.errors import IndexUnavailable
from cxrsearch.files import replacing
from cxrsearch.store import manifest, shard
from cxrsearch.store.contract import SEARCH_BREADTH, IndexFacts, Point, Scored, check_vectors
from cxrsearch.store.filters import Engine, translate
from cxrsearch.store.thumbnails import Thumbnails

_PAGE = 1_000
# What a process killed while it made an index may have left.
_OWN_FILES = {"lock", "shard", "thumbnails", "rejected.jsonl", "rejected.jsonl.new", "index.json.new", "manifest.json"}
# Edge 0.9.0 turns MatchValue(True) into the number 1, which matches no boolean: they are kept as keywords.
_BOOLEANS = {True: "true", False: "false"}

_FILTERS = Engine(
    match=lambda key, value: edge.FieldCondition(key, match=edge.MatchValue(_packed(value))),
    match_any=lambda key, values: edge.FieldCondition(key, match=edge.MatchAny(list(values))),
    words=lambda key, text: edge.FieldCondition(key, match=edge.MatchText(text)),
    number=lambda key, **bounds: edge.FieldCondition(key, range=edge.RangeFloat(**bounds)),
    date=lambda key, **bounds: edge.FieldCondition(key, range=edge.RangeDateTime(**bounds)),
    missing=lambda key: edge.IsEmptyCondition(key),
    filter=lambda **parts: edge.Filter(**parts),
)


class EdgeStore:
    """A VectorStore on a local folder. Use :meth:`open` and :meth:`create`."""

    def __init__(self, folder: Path, facts: IndexFacts, opened: edge.EdgeShard, lock: TextIO, write: bool) -> None:
        self.folder, self.facts = folder, facts
        self._shard, self._lock, self._write = opened, lock, write
        self.thumbnails = Thumbnails(folder / "thumbnails")

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> EdgeStore:
        """Raises IndexUnavailable when there is no index or it is damaged, IndexInUse when it is being written."""
        if not (folder / "index.json").is_file():
            what = "not a cxrsearch index" if folder.exists() else "no such index"
            raise IndexUnavailable(f"{folder}: {what}. Make one with: cxrsearch index DATASET --index {folder}")
        lock = shard.lock(folder, write)
        try:
            shard.finish_erasing(folder, write)
            facts = _read_facts(folder)
            manifest.check(folder)
            if not (folder / "shard" / "edge_config.json").is_file():
                raise IndexUnavailable(f"{folder / 'shard'}: missing or incomplete. Restore the index or index again.")
            if write:
                shard.check_space(folder)
                manifest.remove(folder)
            loaded = shard.load(folder)
        except BaseException:
            lock.close()
            raise
        return cls(folder, facts, loaded, lock, write)

    @classmethod
    def create(cls, folder: Path, facts: IndexFacts) -> EdgeStore:
        """The index in ``folder``, made when there is none; opened for writing."""
        if (folder / "index.json").is_file():
            return cls.open(folder, write=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IndexUnavailable(f"{folder}: cannot be made ({error.strerror})") from None
        foreign = sorted(set(os.listdir(folder)) - _OWN_FILES)
        if foreign:
            raise IndexUnavailable(
                f"{folder}: holds other files ({foreign[0]!r}) and no index. Give an empty or a new folder."
            )
        lock = shard.lock(folder, write=True)
        shard.check_space(folder)
        shutil.rmtree(folder / "shard", ignore_errors=True)  # of a process killed before its index.json was written
        store = cls(folder, facts, shard.create(folder / "shard", facts.dimensions), lock, write=True)
        store._index_fields(facts.all_fields)
        store._write_facts(facts)
        return store

    def declare(self, facts: IndexFacts) -> None:
        self._index_fields({n: f for n, f in facts.fields.items() if n not in self.facts.fields})
        self._write_facts(facts)
        self.facts = facts

    def upsert(self, points: Sequence[Point]) -> None:
        vectors = check_vectors(points, self.facts.dimensions)
        shard.check_space(self.folder)
        made = [
            edge.Point(id=point.id, vector=vector.tolist(), payload=_pack(point.payload))
            for point, vector in zip(points, vectors, strict=True)
        ]
        self._update(edge.UpdateOperation.upsert_points(made))

    def set_payload(self, id: str, payload: Payload) -> None:
        self._update(edge.UpdateOperation.overwrite_payload([id], _pack(payload)))

    def query(self, vector: NDArray[np.float32], limit: int, expression: Expression | None = None) -> list[Scored]:
        return self._query(edge.Query.Nearest(vector.tolist()), limit, expression)

    def recommend(
        self,
        positives: Sequence[NDArray[np.float32]],
        negatives: Sequence[NDArray[np.float32]],
        limit: int,
        expression: Expression | None = None,
    ) -> list[Scored]:
        examples = edge.RecommendQuery([v.tolist() for v in positives], [v.tolist() for v in negatives])
        return self._query(edge.Query.RecommendSumScores(examples), limit, expression)

    def _query(self, query: edge.Query, limit: int, expression: Expression | None) -> list[Scored]:
        request = edge.QueryRequest(
            limit=limit,
            query=query,
            filter=self._filter(expression),
            with_payload=True,
            params=edge.SearchParams(hnsw_ef=max(SEARCH_BREADTH, limit)),
        )
        return [Scored(str(p.id), float(p.score), self._unpack(p.payload)) for p in self._shard.query(request)]

    def scroll(
        self, expression: Expression | None = None, fields: Collection[str] | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        wanted = True if fields is None else edge.PayloadSelector.Include(list(fields))
        offset = None
        while True:
            request = edge.ScrollRequest(
                offset=offset, limit=_PAGE, filter=self._filter(expression), with_payload=wanted, with_vector=vectors
            )
            records, offset = self._shard.scroll(request)
            for record in records:
                vector = np.array(record.vector, dtype=np.float32) if vectors else None
                yield Point(str(record.id), self._unpack(record.payload), vector)
            if offset is None:
                return

    def count(self, expression: Expression | None = None) -> int:
        return self._shard.count(edge.CountRequest(exact=True, filter=self._filter(expression)))

    def values(self, field: str, expression: Expression | None = None) -> Mapping[Scalar, int]:
        request = edge.FacetRequest(key=field, limit=max(1, self.count()), exact=True, filter=self._filter(expression))
        return {self._unpacked(field, hit.value): hit.count for hit in self._shard.facet(request)}

    def delete(self, expression: Expression) -> int:
        count = self.count(expression)
        condition = self._filter(expression)
        assert condition is not None
        self.thumbnails.remove(self._ids(expression))
        self._update(edge.UpdateOperation.delete_points_by_filter(condition))
        return count

    def erase(self, expression: Expression) -> int:
        """The points that stay are written into a new shard, which takes the place of the old one."""
        count = self.count(expression)
        if not count:
            return 0
        self.thumbnails.remove(self._ids(expression))
        new = self.folder / "shard.new"
        shutil.rmtree(new, ignore_errors=True)
        kept = EdgeStore(self.folder, self.facts, shard.create(new, self.facts.dimensions), self._lock, write=True)
        kept._index_fields(self.facts.all_fields)
        points = self.scroll(Not(expression), vectors=True)
        while batch := list(islice(points, _PAGE)):
            kept.upsert(batch)
        kept._shard.close()
        self._shard.close()
        # From the first rename on, the new shard is whole: opening finishes the rest (shard.py).
        (self.folder / "shard").rename(self.folder / "shard.old")
        shard.finish_erasing(self.folder, write=True)
        self._shard = shard.load(self.folder)
        return count

    def optimise(self) -> None:
        self._shard.optimize()
        self._shard.flush()

    def size_bytes(self) -> int:
        blocks = sum(path.stat().st_blocks for path in self.folder.rglob("*") if path.is_file())
        return blocks * 512  # POSIX st_blocks: what the files take, not what their holes pretend

    def close(self) -> None:
        self._shard.close()
        if self._write and shard.free(self.folder) >= shard.SPARE_BYTES:
            # Loading removes the segments that were merged away; now, so that no search has to.
            shard.load(self.folder).close()
            # On a full disk: an index without a manifest is not checked.
            with contextlib.suppress(OSError, IndexUnavailable):
                manifest.write(self.folder)
        self._lock.close()  # closing the file gives the lock back

    def _ids(self, expression: Expression) -> list[str]:
        return [point.id for point in self.scroll(expression, fields=[])]

    def _update(self, operation: edge.UpdateOperation) -> None:
        self._shard.update(operation)
        self._shard.flush()

    def _filter(self, expression: Expression | None) -> edge.Filter | None:
        if expression is None:
            return None
        dates = frozenset(n for n, f in self.facts.all_fields.items() if f.type is FieldType.DATE)
        made: edge.Filter = translate(expression, _FILTERS, dates)
        return made

    def _index_fields(self, fields: Mapping[str, Field]) -> None:
        for field in fields.values():
            self._update(edge.UpdateOperation.create_field_index(field.name, _schema(field.type)))

    def _write_facts(self, facts: IndexFacts) -> None:
        with replacing(self.folder / "index.json", failure=IndexUnavailable) as draft:
            draft.write_text(json.dumps(facts.as_json(), indent=2, ensure_ascii=False), "utf-8")

    def _unpack(self, payload: Mapping[str, Any] | None) -> Payload:
        return {
            name: [self._unpacked(name, part) for part in value]
            if isinstance(value, list)
            else self._unpacked(name, value)
            for name, value in (payload or {}).items()
        }

    def _unpacked(self, name: str, value: Any) -> Any:
        known = self.facts.all_fields.get(name)
        return value == "true" if known is not None and known.type is FieldType.BOOLEAN else value


def _pack(payload: Payload) -> dict[str, Any]:
    return {name: _packed(value) for name, value in payload.items()}


def _packed(value: Value) -> Any:
    if isinstance(value, list):
        return [_packed(part) for part in value]
    return _BOOLEANS[value] if isinstance(value, bool) else value


def _schema(kind: FieldType) -> Any:
    match kind:
        case FieldType.KEYWORD | FieldType.BOOLEAN:
            return edge.PayloadSchemaType.Keyword
        case FieldType.INTEGER:
            return edge.PayloadSchemaType.Integer
        case FieldType.FLOAT:
            return edge.PayloadSchemaType.Float
        case FieldType.DATE:
            return edge.PayloadSchemaType.Datetime
        case FieldType.TEXT:
            return edge.TextIndexParams(tokenizer=edge.TokenizerType.Word, lowercase=True)


def _read_facts(folder: Path) -> IndexFacts:
    try:
        text = (folder / "index.json").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise IndexUnavailable(f"{folder / 'index.json'}: cannot be read. Restore the index or index again.") from None
    return IndexFacts.from_text(text, str(folder))
