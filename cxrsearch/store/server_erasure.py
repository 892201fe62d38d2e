"""Deleted points leave the disk of a server: as far as it can be made to, and what is said of the rest.

A server marks a point as deleted and rewrites its files when a fifth of a thousand points is gone, so in a small
collection never. Here that threshold is lowered until it has rewritten them.
"""

from __future__ import annotations

import time
from typing import Any

from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.replication import Replication
from cxrsearch.store.rest import Rest

# What makes a server rewrite any segment with a deleted point; it takes no lower number of points than this.
_FEWEST_POINTS = 100
_EAGER = {"deleted_threshold": 0.0, "vacuum_min_vector_number": _FEWEST_POINTS}
_USUAL = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000}
# How long the server is given, in seconds; how often it is looked at; and before when it may not have begun.
_SECONDS = 120.0
_LOOK_EVERY = 0.25
_BEGINS_WITHIN = 2.0


def check_replicas(found: Replication | None, place: str, said: str) -> None:
    """Raises IndexUnavailable where a replica is away or behind, as it would come back with what was deleted."""
    if found is None or found.is_whole:
        return
    first, to_do = next(found.problems(), ("a shard is being copied", "wait, and look again"))
    raise IndexUnavailable(
        f"{place}: {first}, and may hold this patient. {said}, and the patient is not gone: {to_do}, and forget again"
        " when cxrsearch doctor finds every replica alive."
    )


def unknown_replicas(place: str) -> str:
    """What is said where the server does not say whether a replica is away."""
    return (
        f"{place}: the server does not say whether a replica was away, which may still hold this patient: run"
        f" cxrsearch doctor --index {place} with a key that may see the cluster, and forget again when it finds every"
        " replica alive"
    )


def remove_pictures_without_image(store: VectorStore) -> None:
    """Those that an index run put there and was killed before it stored their images: whose they are nothing says.

    Of a place that no other index has. Those that another process puts there meanwhile stay.
    """
    if before := set(store.thumbnails.ids()):
        store.thumbnails.remove(before - {point.id for point in store.scroll(fields=[])})


def rewrite(rest: Rest) -> bool:
    """Have the server rewrite its files without the deleted points; whether it said that it is done. Raises
    IndexUnavailable."""
    config = (rest.collection() or {}).get("config", {}).get("optimizer_config", {})
    before = {name: config.get(name, usual) for name, usual in _USUAL.items()}
    rest.change({"optimizers_config": _EAGER})
    try:
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < _SECONDS:
            time.sleep(_LOOK_EVERY)
            if elapsed >= _BEGINS_WITHIN and all(_is_done(found) for found in rest.collections().values()):
                return True
        return False
    finally:
        rest.change({"optimizers_config": before})


def _is_done(found: Any) -> bool:
    """Of what a node says: each knows its own replicas only."""
    return isinstance(found, dict) and found.get("status") == "green"


def remains(rest: Rest, place: str, points: int, done: bool) -> list[str]:
    """Where bytes of deleted points may be all the same, a sentence each. points: that the collection has left."""
    several = int((rest.collection() or {}).get("segments_count") or 1) > 1  # one of which may be as small
    found = [
        f"{place}: the server's log (wal/) keeps what was written, this patient's pseudonym too, until later writes"
        " fill it; to be rid of it now, cxrsearch copy the index into a new collection and delete this one"
    ]
    if not done:
        found.append(f"{place}: the server was still rewriting its files after {_SECONDS:.0f} seconds")
    elif several or points < _FEWEST_POINTS:
        found.append(
            f"{place}: the server rewrites no segment of fewer than {_FEWEST_POINTS} images; one may keep it too"
        )
    if snapshots := rest.snapshots():
        shown = ", ".join(snapshots[:5]) + (f" and {len(snapshots) - 5} more" if len(snapshots) > 5 else "")
        found.append(f"{place}: snapshots on the server hold this patient if they were made before: {shown}")
    return found
