"""The engine's files in an index's folder: who may open them, how they are made, loaded and replaced."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import TextIO

import qdrant_edge as edge

from cxrsearch.errors import IndexInUse, IndexUnavailable
from cxrsearch.store.contract import EXACT_BELOW_KB

_HNSW = edge.HnswIndexConfig(m=32, ef_construct=256, full_scan_threshold=10_000)
# Less space than this is a full disk. The engine writes through memory maps, and a map that finds no room ends the
# process, so there has to be room before it writes.
SPARE_BYTES = 64 * 2**20


def lock(folder: Path, write: bool) -> TextIO:
    try:
        # A reader of a read-only folder can lock too: flock needs no write permission.
        file = open(folder / "lock", "a+" if write or not (folder / "lock").exists() else "r", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise IndexUnavailable(f"{folder}: its lock file cannot be opened ({error.strerror})") from None
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        who = "being searched or written" if write else "being written"
        raise IndexInUse(f"{folder}: this index is {who} by another process. Try again when it is done.") from None
    return file


def create(path: Path, dimensions: int) -> edge.EdgeShard:
    config = edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dimensions, distance=edge.Distance.Dot),
        wal_enabled=False,
        hnsw_config=_HNSW,
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=EXACT_BELOW_KB),
    )
    path.mkdir()
    return edge.EdgeShard.create(str(path), config)


def finish_erasing(folder: Path, write: bool) -> None:
    """What a process killed while erasing left to do: its new shard is whole once the old one was renamed."""
    new, old = folder / "shard.new", folder / "shard.old"
    if not new.exists() and not old.exists():
        return
    if not write:
        raise IndexUnavailable(f"{folder}: deleting a patient was interrupted; run the same cxrsearch forget again.")
    if not (folder / "shard").exists():
        new.rename(folder / "shard")
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> edge.EdgeShard:
    """The shard, loaded by one process at a time: after a crash, loading tidies the files up."""
    try:
        turn = (folder / "lock").open("r+")
        fcntl.lockf(turn, fcntl.LOCK_EX)  # independent of the flock that readers share
    except OSError:
        turn = None  # a read-only folder, where nothing can be tidied up
    try:
        return edge.EdgeShard.load(str(folder / "shard"))
    except Exception as error:  # the engine raises bare Exception
        if turn is None:
            raise IndexUnavailable(
                f"{folder}: cannot be written, and the engine has to, even to search. Copy the index to another folder."
            ) from None
        raise IndexUnavailable(
            f"{folder / 'shard'}: cannot be opened ({_first_line(error)}). Restore the index or index again."
        ) from None
    finally:
        if turn is not None:
            turn.close()


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_space(folder: Path) -> None:
    if (left := free(folder)) < SPARE_BYTES:
        raise IndexUnavailable(
            f"{folder}: the disk is full ({left // 2**20} MiB left). What was stored is kept and can be searched;"
            " make room and run the same command again."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
