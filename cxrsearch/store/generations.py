"""The engine's folder in generations: readers keep the one they opened while a writer prepares the next.

    INDEX/index.json       the facts; the published generation and what its files are
    INDEX/shard/7/         that generation: the engine's files, and a lock that its readers share
    INDEX/shard/8/         the writer's draft, a copy that it changes
    INDEX/draft.json       number and facts of the draft, from when it can be published until it is
    INDEX/forgetting.json  points that are to leave no byte, until they have left none
    INDEX/lock             the writer's

Publishing is one step, a new index.json in the place of the old one. What a killed writer left is finished by
whoever opens the index next (recovery.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from cxrsearch.errors import IndexInUse, IndexUnavailable
from cxrsearch.files import replacing
from cxrsearch.store import manifest, shard
from cxrsearch.store.contract import IndexFacts

HEAD, DRAFT, FORGETTING = "index.json", "draft.json", "forgetting.json"


@dataclass(frozen=True)
class Head:
    """What is published. files: None where they were not described, on a full disk, and so cannot be checked."""

    facts: IndexFacts
    generation: int
    files: manifest.Files | None


@dataclass(frozen=True)
class Plan:
    """What is to become the published generation. erased: ids of the points that it leaves out."""

    facts: IndexFacts
    generation: int
    erased: tuple[str, ...] = ()


class Lock:
    """A lock on a file (flock), held until it is closed. None: where there is no file to lock."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def path_of(folder: Path, generation: int) -> Path:
    return folder / "shard" / str(generation)


def check_links(folder: Path) -> None:
    """Raises IndexUnavailable: what an index names is in its folder, never where a link in it leads."""
    for place in (folder, folder / "shard", folder / "thumbnails"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(place):
                if entry.is_symlink():
                    raise IndexUnavailable(f"{entry.path}: a link; an index holds none. {manifest.ADVICE}")


def check_folder(folder: Path) -> None:
    """Raises IndexUnavailable where there is no index, or one with links."""
    if not (folder / HEAD).is_file():
        what = "not a cxrsearch index" if folder.exists() else "no such index"
        raise IndexUnavailable(f"{folder}: {what}. Make one with: cxrsearch index DATASET --index {folder}")
    check_links(folder)


# ------------------------------------------------------------------ the published generation


def read_head(folder: Path) -> Head:
    data = _read(folder / HEAD)
    facts = IndexFacts.from_json(data, str(folder))
    try:
        if data.pop("checksum") != _checksum(data):
            raise ValueError
        files = data["files"] and {name: (int(s), int(t), str(h)) for name, (s, t, h) in data["files"].items()}
        return Head(facts, int(data["generation"]), files)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        raise IndexUnavailable(f"{folder / HEAD}: damaged. {manifest.ADVICE}") from None


def write_head(folder: Path, head: Head) -> None:
    data = {**head.facts.as_json(), "generation": head.generation, "files": head.files}
    data = json.loads(json.dumps(data))
    _write(folder / HEAD, {**data, "checksum": _checksum(data)})


def open_published(folder: Path, write: bool = False) -> tuple[Head, Lock, edge.EdgeShard]:
    """The published generation, checked and loaded; it is there while the lock is held. write: by the writer, who
    alone can be sure that it stays the published one. Raises IndexUnavailable."""
    while True:
        head = read_head(folder)
        path = path_of(folder, head.generation)
        try:
            held = _lock(path / manifest.LOCK, fcntl.LOCK_SH, os.O_RDONLY)
        except BlockingIOError:  # being removed, so there is another
            continue
        try:
            if write or read_head(folder).generation == head.generation:
                manifest.check(path, head.files)
                return head, held, shard.load(path) if write else shard.load_for_reading(path)
            held.close()
        except IndexUnavailable:
            held.close()
            if read_head(folder).generation == head.generation:
                raise
        except BaseException:
            held.close()
            raise


def problems(folder: Path, head: Head) -> Iterator[str]:
    """What is wrong with the files of a generation, every byte of which is read."""
    return manifest.problems(path_of(folder, head.generation), head.files, every_byte=True)


# ------------------------------------------------------------------ the writer


def lock_writer(folder: Path) -> Lock:
    """Raises IndexInUse while another process writes, IndexUnavailable where nobody can."""
    try:
        return _lock(folder / manifest.LOCK, fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT, missing_ok=False)
    except BlockingIOError:
        raise IndexInUse(
            f"{folder}: this index is being written by another process. Try again when it is done."
        ) from None
    except OSError as error:
        raise IndexUnavailable(f"{folder}: its lock file cannot be opened ({error.strerror})") from None


def next_number(folder: Path) -> int:
    found = (
        [int(name) for name in os.listdir(folder / "shard") if name.isdecimal()] if (folder / "shard").is_dir() else []
    )
    return max(found, default=0) + 1


def copy_published(folder: Path, head: Head) -> int:
    """Make a draft of the published generation, on the disk when this returns; its number."""
    source = path_of(folder, head.generation)
    shard.check_space(folder, shard.size(source))
    number = next_number(folder)
    shard.copy(source, path_of(folder, number))
    shard.sync(folder)
    return number


def plan(folder: Path, name: str, plan: Plan) -> None:
    """Write what is to be published (DRAFT) or erased (FORGETTING) where a kill leaves it."""
    data = {**plan.facts.as_json(), "generation": plan.generation, "erased": plan.erased}
    _write(folder / name, data)


def publish(folder: Path, facts: IndexFacts, generation: int) -> Head:
    """Readers that come now get this generation, whose shard is closed."""
    path = path_of(folder, generation)
    os.close(os.open(path / manifest.LOCK, os.O_CREAT | os.O_RDONLY, 0o666))
    files = None
    if shard.free(folder) >= shard.SPARE_BYTES:
        shard.tidy(path)
        files = manifest.describe(path)
    shard.sync(folder)
    head = Head(facts, generation, files)
    write_head(folder, head)
    return head


def publish_copy(folder: Path, facts: IndexFacts, draft: int) -> Head:
    """As :func:`publish`, of a flushed draft that its writer goes on with."""
    number = next_number(folder)
    shard.copy(path_of(folder, draft), path_of(folder, number))
    head = publish(folder, facts, number)
    remove_others(folder, {draft, number})
    return head


def remove_others(folder: Path, keep: Collection[int], held_too: bool = False) -> None:
    """Remove the generations that nobody holds, or all; readers that hold one go on from their memory maps."""
    names = {str(number) for number in keep}
    for entry in (folder / "shard").iterdir():
        if entry.name in names:
            continue
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink(missing_ok=True)
            continue
        with contextlib.suppress(BlockingIOError):
            lock = Lock(None) if held_too else _lock(entry / manifest.LOCK, fcntl.LOCK_EX, os.O_RDWR)
            gone = entry.with_name(f"{entry.name.removesuffix('.gone')}.gone")
            entry.rename(gone)  # out of the way of a reader that is about to load it
            shutil.rmtree(gone)
            lock.close()


# ------------------------------------------------------------------ files


def _lock(path: Path, kind: int, flags: int, missing_ok: bool = True) -> Lock:
    """kind: of fcntl.flock. Raises BlockingIOError while another process holds it."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        if not missing_ok:
            raise
        return Lock(None)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    return Lock(file)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise IndexUnavailable(f"{path}: cannot be read or damaged. {manifest.ADVICE}") from None


def read_plan(path: Path) -> Plan | None:
    if not path.exists():
        return None
    data = _read(path)
    try:
        return Plan(IndexFacts.from_json(data, str(path)), int(data["generation"]), tuple(map(str, data["erased"])))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise IndexUnavailable(f"{path}: damaged. {manifest.ADVICE}") from None


def _write(path: Path, data: dict[str, Any]) -> None:
    with replacing(path, failure=IndexUnavailable) as draft:
        draft.write_text(json.dumps(data, indent=1, ensure_ascii=False), "utf-8")


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
