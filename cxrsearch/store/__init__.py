"""An index by its address: a folder (Qdrant Edge, in this process) or a URL (a Qdrant server)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cxrsearch.clinical.fields import valid_field_name
from cxrsearch.errors import IndexUnavailable, UsageError
from cxrsearch.text import tidy

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cxrsearch.store.contract import IndexFacts, VectorStore
    from cxrsearch.store.edge import EdgeStore
    from cxrsearch.store.placement import Placement
    from cxrsearch.store.server import ServerStore


def is_url(address: str) -> bool:
    return "://" in address


def placement_of(address: str, shards: int | None, replicas: int | None) -> Placement | None:
    """What --shards and --replicas ask for. Raises UsageError where the index is a folder."""
    if shards is None and replicas is None:
        return None
    if not is_url(address):
        option = "--replicas" if replicas is not None else "--shards"
        raise UsageError(f"{option}: {address} is a folder; give the address of a cluster, http://a:6333,b:6333/chest")
    from cxrsearch.store.placement import Placement

    return Placement(shards, replicas)


def is_same(address: str, other: str) -> bool:
    """Whether two addresses are one index: one folder, or one collection on servers with a node in common."""
    if is_url(address) and is_url(other):
        from cxrsearch.store.address import parse_address

        return parse_address(address).is_index_of(parse_address(other))
    return not is_url(address) and not is_url(other) and Path(address).resolve() == Path(other).resolve()


def holds_index(folder: Path) -> bool:
    """Whether a folder is an index, finished or being made."""
    return (folder / "index.json").is_file() and (folder / "lock").exists()


def open_store(address: str, write: bool = False) -> AbstractContextManager[VectorStore]:
    """Open an index that exists. Raises IndexUnavailable or IndexInUse."""
    if is_url(address):
        from cxrsearch.store.server import ServerStore

        return closing(ServerStore.connect(address, write=write))
    from cxrsearch.store.edge import EdgeStore

    return closing(EdgeStore.open(_folder(address), write))


def create_store(address: str, facts: IndexFacts) -> AbstractContextManager[VectorStore]:
    """Open an index for writing, making it with ``facts`` where there is none."""
    if is_url(address):
        from cxrsearch.store.server import ServerStore

        return closing(ServerStore.connect(address, facts))
    from cxrsearch.store.edge import EdgeStore

    return closing(EdgeStore.create(_folder(address), facts))


def problems(address: str) -> Iterator[str]:
    """What is damaged or missing of an index, a file a line, though it may be too damaged to be opened."""
    if is_url(address):
        with open_store(address) as store:
            yield from store.problems()
    else:
        from cxrsearch.store.recovery import problems_of

        yield from problems_of(_folder(address))


@contextmanager
def new_store(address: str, facts: IndexFacts) -> Iterator[VectorStore]:
    """A new index, to be filled, that is there only when the block has ended without error.

    Raises UsageError where an index is already, before anything is changed, and IndexUnavailable for facts with fields
    that are none.
    """
    for name in facts.fields:
        if not valid_field_name(name):
            raise IndexUnavailable(
                f"{address}: not made, as {tidy(name)[:40]!r} of what is copied is no name of a field"
            )
    facts = replace(facts, graph=None)  # of another index's graph
    store: ServerStore | EdgeStore
    if is_url(address):
        from cxrsearch.store.server import ServerStore

        store = ServerStore.connect(address, facts, unpublished=True)
    else:
        from cxrsearch.store.edge import EdgeStore

        store = EdgeStore.create(_folder(address), facts, unpublished=True)
    if not store.is_unpublished:
        with closing(store):
            raise UsageError(f"{address}: holds {store.count()} images already; give a new index")
    try:
        yield store
    except BaseException:
        store.abandon()
        raise
    store.close()


def _folder(address: str) -> Path:
    if not address:
        raise UsageError("--index: give a folder or a URL such as http://localhost:6333/chest")
    return Path(address)
