"""The engine's files in one folder: how they are made, loaded, copied and read without their words for our types."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge

from cxrsearch.clinical.fields import Field, FieldType, indexed
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import manifest
from cxrsearch.store.graph import EDGES, EXACT, FILTERED_EXACT_BELOW_KB, LOOKED_AT, OVERSAMPLING, Effort

T = TypeVar("T")

PAGE = 1_000
# KB of vectors from which on the engine builds a graph by itself: never, or at once where it is asked to.
_NEVER, _AT_ONCE = 2**40, 1
# Less space than this is a full disk. The engine writes through memory maps, and a map that finds no room ends the
# process, so there has to be room before it writes.
SPARE_BYTES = 64 * 2**20
# Gridstore's, of writes that a kill may have torn; gone when they have been made good.
_JOURNAL = "tracker_journal.dat"
_MOST_LOADINGS = 5
_COPIED_AT_ONCE = 4 * 2**20
_FICLONE = 0x40049409  # Linux: share the blocks of another file until one of the two is written (btrfs, XFS)


def create(path: Path, dimensions: int, fields: Mapping[str, Field]) -> edge.EdgeShard:
    """An empty shard in a new folder."""
    path.mkdir(parents=True)
    made = edge.EdgeShard.create(str(path), _config(dimensions, _NEVER))
    index_fields(made, fields)
    return made


def optimised(path: Path, dimensions: int, graph: bool, int8: bool = False) -> edge.EdgeShard:
    """The shard, loaded, its files in order, and with all points in one graph where that is asked for, with int8 copies
    of their vectors where that is too. Until the engine has written all of it, the folder is as it was."""
    loaded = load(path, _config(dimensions, _AT_ONCE if graph else _NEVER, int8))
    loaded.optimize()
    loaded.flush()
    return loaded


def _config(dimensions: int, graph_from: int, int8: bool = False) -> edge.EdgeConfig:
    # Cold: read where a search comes to it, not whole when an index is opened.
    cold = edge.Memory.Cold
    copies = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=cold) if int8 else None
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(dimensions, edge.Distance.Dot, quantization_config=copies, memory=cold),
        payload_memory=cold,
        id_tracker_memory=cold,
        wal_enabled=False,
        hnsw_config=edge.HnswIndexConfig(EDGES, LOOKED_AT, FILTERED_EXACT_BELOW_KB, memory=cold),
        optimizers=edge.EdgeOptimizersConfig(
            indexing_threshold=graph_from, default_segment_number=1, max_segment_size=_NEVER
        ),
    )


def load(path: Path, config: edge.EdgeConfig | None = None) -> edge.EdgeShard:
    """With the settings it has, unless others are given. Raises IndexUnavailable. The engine writes here even when it
    is only going to read."""
    if not (path / "edge_config.json").is_file():
        raise IndexUnavailable(f"{path}: missing or incomplete. Restore the index or index again.")
    try:
        return edge.EdgeShard.load(str(path), config)
    except Exception as error:  # the engine raises bare Exception
        why = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise IndexUnavailable(f"{path}: cannot be opened ({why}). Restore the index or index again.") from None


def load_for_reading(path: Path) -> edge.EdgeShard:
    """As :meth:`load`; where the folder cannot be written, a private copy, which is gone when the shard is closed.

    Its files leave the temporary folder as soon as they are loaded: memory maps keep them, and a process that is
    killed leaves nothing behind.
    """
    if all(os.access(path / name, os.W_OK) for name in (".", *manifest.listed(path))):
        return load(path)
    try:
        with tempfile.TemporaryDirectory(prefix="cxrsearch-") as place:
            copy(path, Path(place) / "shard")
            return load(Path(place) / "shard")
    except OSError as error:
        raise IndexUnavailable(
            f"{path}: cannot be written, so a copy has to be searched, and {tempfile.gettempdir()} has no room for one"
            f" ({error.strerror}). Set TMPDIR to a folder with {size(path) // 2**20 + 1} MiB left."
        ) from None


def params(effort: Effort) -> edge.SearchParams:
    acorn = edge.AcornSearchParams(enable=True) if effort.acorn else None
    int8 = edge.QuantizationSearchParams(ignore=not effort.int8, rescore=True, oversampling=OVERSAMPLING)
    return edge.SearchParams(hnsw_ef=effort.breadth, exact=effort == EXACT, acorn=acorn, quantization=int8)


def answer(folder: Path, request: Callable[[], T]) -> T:
    """What the engine answers of the index in ``folder``. Raises IndexUnavailable where it cannot read its files, as
    after bits have rotted: it raises bare Exception for that."""
    try:
        return request()
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise IndexUnavailable(
            f"{folder}: the engine cannot read its files. cxrsearch check {folder} says what is damaged."
        ) from None


def tidy(path: Path) -> None:
    """Have the engine do what it does when it loads, so that no reader's loading changes a file's content.

    After a kill the first loading replays the engine's journals, and may end with one that the next removes.
    """
    for _ in range(_MOST_LOADINGS):
        before = manifest.listed(path)
        load(path).close()
        if manifest.listed(path) == before and not any(name.endswith(_JOURNAL) for name in before):
            return


def index_fields(shard: edge.EdgeShard, fields: Mapping[str, Field]) -> None:
    for name, kind in indexed(fields).items():
        shard.update(edge.UpdateOperation.create_field_index(name, _schema(kind)))
    shard.flush()


def ids(shard: edge.EdgeShard, among: Collection[str] | None = None) -> set[str]:
    """Of every point, or of those asked for that there are."""
    records = _records(shard, payload=False) if among is None else shard.retrieve(list(among), False, False)
    return {str(record.id) for record in records}


def copy_points(source: edge.EdgeShard, target: edge.EdgeShard, without: Collection[str]) -> None:
    """Every point but those of the ids ``without``, payloads as the engine has them."""
    batch: list[edge.Point] = []

    def write() -> None:
        target.update(edge.UpdateOperation.upsert_points(batch))
        target.flush()
        batch.clear()

    for record in _records(source, payload=True):
        if str(record.id) not in without:
            batch.append(edge.Point(id=record.id, vector=record.vector, payload=record.payload or {}))
        if len(batch) == PAGE:
            write()
    if batch:
        write()


def copy(source: Path, target: Path) -> None:
    """The folder's regular files, their holes too; links are left out, and what the engine writes for a moment."""
    target.mkdir()
    for entry in os.scandir(source):
        if entry.name.startswith(manifest.OF_A_MOMENT):
            continue
        if entry.is_dir(follow_symlinks=False):
            copy(Path(entry.path), target / entry.name)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(Path(entry.path), target / entry.name)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
        except OSError:
            new.truncate(os.fstat(old.fileno()).st_size)
            for at, end in manifest.stretches(old.fileno()):
                while at < end:
                    at += os.pwrite(new.fileno(), os.pread(old.fileno(), min(end - at, _COPIED_AT_ONCE), at), at)


def sync(folder: Path) -> None:
    """Have the folder's disk hold what was written: in one step for all files, ten times as fast as file by file."""
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:  # not Linux
        os.sync()
        return
    opened = os.open(folder, os.O_RDONLY)
    syncfs(opened)
    os.close(opened)


def size(path: Path) -> int:
    """Bytes on disk: what the files take, not what their holes pretend."""
    blocks = 0
    for place, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the engine's files of a moment
                blocks += os.lstat(os.path.join(place, name)).st_blocks
    return blocks * 512  # POSIX st_blocks


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_space(folder: Path, more: int = 0) -> None:
    """Raises IndexUnavailable where fewer than ``more`` bytes can be written."""
    if (left := free(folder)) < SPARE_BYTES + more:
        needed = f", {(SPARE_BYTES + more) // 2**20} are needed" if more else ""
        raise IndexUnavailable(
            f"{folder}: the disk is full ({left // 2**20} MiB left{needed})."
            " Make room and run the same command again; what was stored before is kept."
        )


def _records(shard: edge.EdgeShard, payload: bool) -> Iterator[Any]:
    offset = None
    while True:
        request = edge.ScrollRequest(offset=offset, limit=PAGE, with_payload=payload, with_vector=payload)
        records, offset = shard.scroll(request)
        yield from records
        if offset is None:
            return


def _schema(kind: FieldType) -> Any:
    cold = edge.Memory.Cold
    match kind:
        case FieldType.KEYWORD | FieldType.BOOLEAN:
            return edge.KeywordIndexParams(memory=cold)
        case FieldType.INTEGER:
            return edge.IntegerIndexParams(lookup=True, range=True, memory=cold)
        case FieldType.FLOAT:
            return edge.FloatIndexParams(memory=cold)
        case FieldType.DATE:
            return edge.DatetimeIndexParams(memory=cold)
        case FieldType.TEXT:
            return edge.TextIndexParams(tokenizer=edge.TokenizerType.Word, lowercase=True, memory=cold)
