"""What a killed writer left, finished by whoever opens the index next.

Its draft holds all that was acknowledged, so it is published. Points that were to be forgotten are erased, whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from cxrsearch.errors import IndexInUse, IndexUnavailable
from cxrsearch.store import shard
from cxrsearch.store.contract import IndexFacts
from cxrsearch.store.generations import (
    DRAFT,
    FORGETTING,
    Plan,
    check_folder,
    lock_writer,
    next_number,
    path_of,
    plan,
    problems,
    publish,
    read_head,
    read_plan,
    remove_others,
)
from cxrsearch.store.thumbnails import Thumbnails


def recover(folder: Path) -> None:
    """Finish what a killed writer left; by the holder of the writer's lock. Raises IndexUnavailable."""
    if (draft := read_plan(folder / DRAFT)) is not None:
        if read_head(folder).generation != draft.generation:
            publish(folder, draft.facts, draft.generation)
        _sweep(folder)
        (folder / DRAFT).unlink()
    if (intended := read_plan(folder / FORGETTING)) is not None:
        _finish_erasing(folder, intended)
    if (head := read_head(folder)).files is None:  # published on a full disk: describe its files now
        head = publish(folder, head.facts, head.generation)
    remove_others(folder, {head.generation})


def recover_if_alone(folder: Path) -> None:
    """:func:`recover` by a reader, where no writer is at work and the folder can be written."""
    if not any((folder / name).exists() for name in (DRAFT, FORGETTING)):
        return
    try:
        lock = lock_writer(folder)
    except IndexInUse:
        return  # it is publishing by itself
    except IndexUnavailable:
        _check_forgotten(folder)
        return
    try:
        recover(folder)
    except IndexUnavailable:
        _check_forgotten(folder)
    finally:
        lock.close()


def problems_of(folder: Path) -> Iterator[str]:
    """What is damaged or missing of an index in a folder, which the engine need not be able to load."""
    check_folder(folder)
    recover_if_alone(folder)
    head = read_head(folder)
    yield from problems(folder, head)
    yield from Thumbnails(folder / "thumbnails").problems()


def erase(folder: Path, facts: IndexFacts, ids: Collection[str]) -> None:
    """Publish a generation without these points, and leave no byte of them: all, or where it fails nothing."""
    intended = Plan(facts, next_number(folder), tuple(sorted(ids)))
    plan(folder, FORGETTING, intended)
    try:
        _finish_erasing(folder, intended)
    except BaseException:
        if read_head(folder).generation != intended.generation:
            (folder / FORGETTING).unlink()
            remove_others(folder, {read_head(folder).generation})
        raise


def _finish_erasing(folder: Path, intended: Plan) -> None:
    head = read_head(folder)
    if head.generation != intended.generation:
        old, new = path_of(folder, head.generation), path_of(folder, intended.generation)
        shard.check_space(folder, shard.size(old))
        shutil.rmtree(new, ignore_errors=True)
        source = shard.load(old)
        target = shard.create(new, intended.facts.dimensions, intended.facts.all_fields)
        shard.copy_points(source, target, frozenset(intended.erased))
        target.optimize()
        source.close()
        target.close()
        head = publish(folder, intended.facts, intended.generation)
    _sweep(folder)
    remove_others(folder, {head.generation}, held_too=True)
    (folder / FORGETTING).unlink()


def _sweep(folder: Path) -> None:
    """Remove every thumbnail that no point has."""
    loaded = shard.load(path_of(folder, read_head(folder).generation))
    Thumbnails(folder / "thumbnails").keep_only(shard.ids(loaded))
    loaded.close()


def _check_forgotten(folder: Path) -> None:
    if (folder / FORGETTING).exists():
        raise IndexUnavailable(
            f"{folder}: deleting a patient was interrupted, and cannot be finished here: make room, or open the index"
            " where it can be written (cxrsearch info)."
        ) from None
