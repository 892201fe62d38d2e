"""An index in a folder: one Qdrant Edge shard, searched in this process.

    INDEX/index.json   the facts, and which generation of the shard is published (generations.py)
    INDEX/shard/       the engine's files, a folder for each generation
    INDEX/lock         the writer's
    INDEX/thumbnails/  a small picture of each image (thumbnails.py)

The shard has no write-ahead log, whose lock would keep out a second reader; every write is flushed before it returns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import qdrant_edge as edge

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import Payload, Scalar
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import generations, recovery, shard
from cxrsearch.store.contract import IndexFacts, KnownOrNearest, Point, Scored, Vector, check_vectors
from cxrsearch.store.edge_values import filter_of, pack, unpack, unpacked
from cxrsearch.store.generations import DRAFT, HEAD, Head, Lock, Plan
from cxrsearch.store.graph import BUILDING, EXACT, Effort, effort_for, has_int8
from cxrsearch.store.order import best_first, most_frequent_first
from cxrsearch.store.thumbnails import Thumbnails

# What a process killed while it made an index may have left.
_OWN_FILES = {"shard", "thumbnails", "rejected.jsonl", "rejected.jsonl.new", "index.json.new", "lock"}
# Seconds between two generations that a long run publishes, and how many times what making one took: it is a copy of
# the whole shard, and takes at most a twentieth of the run.
PUBLISH_EVERY = 30.0
_PUBLISH_SHARE = 20


class EdgeStore:
    """A VectorStore on a local folder. Use :meth:`open` and :meth:`create`."""

    def __init__(self, folder: Path, facts: IndexFacts, writer: Lock | None, unpublished: bool = False) -> None:
        self.folder, self.facts, self._writer = folder, facts, writer
        self.is_unpublished = unpublished
        self.thumbnails = Thumbnails(folder / "thumbnails", self._begin)
        self._head: Head
        self._shard: edge.EdgeShard
        self._held = Lock(None)
        self._draft: int | None = None
        self._gone: set[str] = set()  # deleted points, whose thumbnails go when readers no longer get the points
        self._publish_at = 0.0

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> EdgeStore:
        """Raises IndexUnavailable when there is no index or it is damaged, IndexInUse for a second writer."""
        generations.check_folder(folder)
        writer = generations.lock_writer(folder) if write else None
        try:
            if writer is None:
                recovery.recover_if_alone(folder)
            else:
                shard.check_space(folder)
                recovery.recover(folder)
            opened = cls(folder, generations.read_head(folder).facts, writer)
            opened._open_published()
        except BaseException:
            if writer is not None:
                writer.close()
            raise
        return opened

    @classmethod
    def create(cls, folder: Path, facts: IndexFacts, unpublished: bool = False) -> EdgeStore:
        """The index in ``folder``, made when there is none; opened for writing. unpublished: nothing of what is
        written is there for others, or after a kill, before the store is closed."""
        if (folder / HEAD).is_file():
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
        generations.check_links(folder)
        writer = generations.lock_writer(folder)
        made = cls(folder, facts, writer, unpublished)
        try:
            shard.check_space(folder)
            made._remove_all()  # of a process killed before its index.json was written
            made._shard = shard.create(generations.path_of(folder, 1), facts.dimensions, facts.all_fields)
            if unpublished:
                made._draft = 1
            else:
                made._shard.close()
                generations.publish(folder, facts, 1)
                made._open_published()
        except BaseException:
            writer.close()
            raise
        return made

    def check_writable(self) -> None:
        if not os.access(self.folder, os.W_OK):
            raise IndexUnavailable(f"{self.folder}: may not be written by this user. Give a copy of it that may.")

    def declare(self, facts: IndexFacts) -> None:
        if new := {name: field for name, field in facts.fields.items() if name not in self.facts.fields}:
            self._begin()
            shard.index_fields(self._shard, new)
        if self._draft is None:
            self._head = replace(self._head, facts=facts)
            generations.write_head(self.folder, self._head)
        elif not self.is_unpublished:
            generations.plan(self.folder, DRAFT, Plan(facts, self._draft))
        self.facts = facts

    def reload(self) -> None: ...  # nobody else writes it

    def upsert(self, points: Sequence[Point]) -> None:
        vectors = check_vectors(points, self.facts.dimensions)
        made = [
            edge.Point(id=point.id, vector=vector.tolist(), payload=pack(point.payload))
            for point, vector in zip(points, vectors, strict=True)
        ]
        self._update(edge.UpdateOperation.upsert_points(made))
        stored = {point.id for point in points}
        self.thumbnails.unsettled -= stored
        self._gone -= stored

    def set_payloads(self, payloads: Mapping[str, Payload]) -> None:
        # By filter: by id, a point that is not there would end the rest.
        self._update(
            *(
                edge.UpdateOperation.overwrite_payload_by_filter(
                    edge.Filter(must=[edge.HasIdCondition({id})]), pack(payload)
                )
                for id, payload in payloads.items()
            )
        )

    def query(
        self, vector: Vector, limit: int, expression: Expression | None = None, effort: Effort | None = None
    ) -> list[Scored]:
        chosen = effort or effort_for(self.facts.graph, limit, expression)
        return self._query(edge.Query.Nearest(vector.tolist()), limit, expression, chosen)

    def query_each(self, vectors: Sequence[Vector], limit: int, expression: Expression | None) -> list[list[Scored]]:
        return [self.query(vector, limit, expression) for vector in vectors]

    def recommend(
        self, positives: Sequence[Vector], negatives: Sequence[Vector], limit: int, expression: Expression | None = None
    ) -> list[Scored]:
        examples = edge.RecommendQuery([v.tolist() for v in positives], [v.tolist() for v in negatives])
        return self._query(edge.Query.RecommendSumScores(examples), limit, expression, EXACT)

    def _query(self, query: edge.Query, limit: int, expression: Expression | None, effort: Effort) -> list[Scored]:
        request = edge.QueryRequest(
            limit=limit,
            query=query,
            filter=filter_of(expression, self.facts.all_fields),
            with_payload=True,
            params=shard.params(effort),
        )
        found = shard.answer(self.folder, lambda: self._shard.query(request))
        return best_first((str(point.id), point.score, unpack(point.payload, self.facts)) for point in found)

    def scroll(
        self, expression: Expression | None = None, fields: Collection[str] | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        selected = True if fields is None else edge.PayloadSelector.Include(list(fields))
        offset = None
        while True:
            request = edge.ScrollRequest(
                offset=offset,
                limit=shard.PAGE,
                filter=filter_of(expression, self.facts.all_fields),
                with_payload=selected,
                with_vector=vectors,
            )
            records, offset = shard.answer(self.folder, lambda r=request: self._shard.scroll(r))  # type: ignore[misc]
            for record in records:
                vector = np.array(record.vector, dtype=np.float32) if vectors else None
                yield Point(str(record.id), unpack(record.payload, self.facts), vector)
            if offset is None:
                return

    def known_or_nearest(self, known: Expression, vector: Vector, limit: int) -> KnownOrNearest:
        points = list(self.scroll(known, vectors=True))
        return points, None if points else self.query(vector, limit)

    def count(self, expression: Expression | None = None) -> int:
        request = edge.CountRequest(exact=True, filter=filter_of(expression, self.facts.all_fields))
        return shard.answer(self.folder, lambda: self._shard.count(request))

    def values(self, field: str, expression: Expression | None = None) -> Mapping[Scalar, int]:
        request = edge.FacetRequest(
            key=field, limit=max(1, self.count()), exact=True, filter=filter_of(expression, self.facts.all_fields)
        )
        found = shard.answer(self.folder, lambda: self._shard.facet(request))
        return most_frequent_first({unpacked(hit.value, self.facts.all_fields.get(field)): hit.count for hit in found})

    def delete(self, expression: Expression) -> int:
        condition = filter_of(expression, self.facts.all_fields)
        assert condition is not None
        gone = self._ids(expression)
        if gone:
            self._update(edge.UpdateOperation.delete_points_by_filter(condition))
            self._gone.update(gone)
        return len(gone)

    def erase(self, expression: Expression, facts: IndexFacts) -> int:
        facts = replace(facts, graph=None)  # is in the files that go
        if not (gone := self._ids(expression)):
            self.declare(facts)
            return 0
        self._finish()
        try:
            recovery.erase(self.folder, facts, gone)
        finally:
            self._open_published()
        self.facts = facts
        return len(gone)

    def remains(self) -> Sequence[str]:
        return ()

    def optimise(self, graph: bool = False) -> None:
        if graph:
            logging.getLogger("cxrsearch").info(BUILDING)
            if self._draft is not None and not self.is_unpublished:
                self._publish_copy()  # building takes minutes: readers have all there is meanwhile
            self._begin()
        if self._draft is not None:
            path = generations.path_of(self.folder, self._draft)
            shard.check_space(self.folder, shard.size(path) if graph else 0)
            int8 = graph and has_int8(self.count(), self.facts.dimensions)
            self._shard.close()
            self._shard = shard.optimised(path, self.facts.dimensions, graph, int8)

    def in_graph(self) -> int:
        return int(self._shard.info().indexed_vectors_count)

    def size_bytes(self) -> int:
        return shard.size(self.folder)

    def replication(self) -> None: ...  # a folder has one copy of itself

    def problems(self) -> Iterator[str]:
        yield from generations.problems(self.folder, self._head)
        yield from self.thumbnails.problems()

    def close(self) -> None:
        try:
            self._finish()
        finally:
            if self._writer is not None:
                self._writer.close()

    def abandon(self) -> None:
        self._shard.close()
        self._held.close()
        self._remove_all()
        (self.folder / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # holds what is not ours
            self.folder.rmdir()
        assert self._writer is not None
        self._writer.close()

    def _remove_all(self) -> None:
        for name in ("shard", "thumbnails"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _ids(self, expression: Expression) -> list[str]:
        return [point.id for point in self.scroll(expression, fields=[])]

    def _open_published(self) -> None:
        self._head, self._held, self._shard = generations.open_published(self.folder, self._writer is not None)

    def _begin(self) -> None:
        """Before the first change: go on with a draft."""
        if self._draft is not None:
            return
        self._draft = generations.copy_published(self.folder, self._head)
        if not self.is_unpublished:
            generations.plan(self.folder, DRAFT, Plan(self.facts, self._draft))
        self._shard.close()
        self._held.close()
        self._shard = shard.load(generations.path_of(self.folder, self._draft))
        self._publish_at = time.monotonic() + PUBLISH_EVERY

    def _update(self, *operations: edge.UpdateOperation) -> None:
        shard.check_space(self.folder)
        self._begin()
        for operation in operations:
            self._shard.update(operation)
        self._shard.flush()
        if not self.is_unpublished and time.monotonic() >= self._publish_at:
            self._publish_copy()

    def _publish_copy(self) -> None:
        """Let readers have what there is, and go on."""
        assert self._draft is not None
        started = time.monotonic()
        if shard.free(self.folder) > 2 * shard.SPARE_BYTES + shard.size(generations.path_of(self.folder, self._draft)):
            self._head = generations.publish_copy(self.folder, self.facts, self._draft)
        now = time.monotonic()
        self._publish_at = now + max(PUBLISH_EVERY, _PUBLISH_SHARE * (now - started))

    def _finish(self) -> None:
        """Close the engine's files; where they are a draft, that becomes the published generation."""
        if self._draft is None:
            self._shard.close()
            self._held.close()
            return
        without_point = self.thumbnails.unsettled - shard.ids(self._shard, self.thumbnails.unsettled)
        self._shard.close()
        generations.publish(self.folder, self.facts, self._draft)
        self.thumbnails.remove(self._gone | without_point)
        (self.folder / DRAFT).unlink(missing_ok=True)
        generations.remove_others(self.folder, {self._draft})
        self._draft, self._gone = None, set()
        self.thumbnails.unsettled.clear()
