"""cxrsearch copy: an index from a folder to a server, or back."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from cxrsearch.cli.options import Replicas, Shards

# Points written at once; their vectors and payloads together stay below a few MB.
_BATCH = 500


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The index to copy: a folder or a URL.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The new index: a folder or a URL.")],
    shards: Shards = None,
    replicas: Replicas = None,
) -> None:
    """Copy an index from a folder to a server or cluster, or back. The copy is there when it is whole.

    Example: cxrsearch copy chest http://localhost:6333/chest
    """
    from cxrsearch.errors import UsageError
    from cxrsearch.store import backup as backups
    from cxrsearch.store import is_same, new_store, open_store, placement_of

    if is_same(source, target):
        raise UsageError(f"{target}: is the index to copy itself; give another folder or URL as DST")
    placement = placement_of(target, shards, replicas)
    with open_store(source) as old:
        facts = old.facts
        if placement is not None:
            facts = replace(facts, placement=placement.over(facts.placement))
        with new_store(target, facts) as new:
            points = backups.batches(old.scroll(vectors=True), _BATCH)
            copied = backups.fill(new, points, old.thumbnails.get, target)
    print(f"copied {copied} images")
