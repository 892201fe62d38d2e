"""One collection of a Qdrant server: how it is found, made, taken over from a process that was killed, and dropped.

A copy or restore fills a collection that is no index before it is closed. The random name in its metadata says whose it
is: a process fills, publishes and drops only what it made itself. The last of several that begin has it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cxrsearch import settings
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import collection_facts as facts_of
from cxrsearch.store import replication
from cxrsearch.store.address import ServerAddress
from cxrsearch.store.contract import IndexFacts
from cxrsearch.store.limits import Limits
from cxrsearch.store.members import Members
from cxrsearch.store.refusals import Refusal, impossible
from cxrsearch.store.replication import Replication
from cxrsearch.store.rest import Rest
from cxrsearch.store.thumbnail_places import is_place_of, own_place, place_of, root_of, thumbnails_at
from cxrsearch.store.thumbnails import Thumbnails

if TYPE_CHECKING:
    from cxrsearch.store.server_writes import ServerWrites

_log = logging.getLogger("cxrsearch")

# How long a collection that another process is making is waited for, in seconds, and how often it is looked at.
_MAKING_SECONDS = 20.0
_LOOK_EVERY = 0.2


class ServerCollection:
    """The collection of one address. Every method raises IndexUnavailable.

    limits, replicas: what the server says of it (1 where it says nothing), once it was looked at.
    thumbnails: where its pictures are, likewise.
    is_unpublished: whether this process made it, and has not published it.
    """

    def __init__(self, address: ServerAddress, rest: Rest) -> None:
        self._address, self._place, self._rest = address, address.place, rest
        self.members = Members(rest, address)
        self.limits, self.replicas = Limits(), 1
        setting = settings.thumbnails()
        self._root = None if setting is None else root_of(setting)
        self.thumbnails = Thumbnails(None)
        self.is_unpublished = False
        self._made: dict[str, Any] = {}  # the records of one that this process made, before it is an index

    @cached_property
    def writes(self) -> ServerWrites:
        from cxrsearch.store.server_writes import ServerWrites

        return ServerWrites(self._address, self._rest.nodes)

    @property
    def has_own_place(self) -> bool:
        """Whether the pictures are where this process puts its own, and no other index has any."""
        place = None if self._root is None else own_place(self._root, self._address.collection, self.members.name)
        return place is not None and place == self.thumbnails.place

    def open(self) -> IndexFacts:
        metadata = self._metadata()
        if metadata is None:
            raise IndexUnavailable(
                f"{self._place}: no such index. Make one with: cxrsearch index DATASET --index {self._place}"
            )
        return facts_of.read(metadata, self._place)

    def open_or_make(self, facts: IndexFacts, unpublished: bool) -> IndexFacts:
        """Those of the index that is there, or ``facts`` of one that is made."""
        metadata = self._metadata_when_made()
        if unpublished and facts_of.state(metadata) in (facts_of.UNPUBLISHED, facts_of.BEING_MADE):
            # Of a process that was killed; of one that is filling it, that finds it gone.
            self._remove_pictures(metadata or {})
            self.writes.drop()
            metadata = None
        if metadata is None:
            first = facts_of.UNPUBLISHED if unpublished else facts_of.BEING_MADE
            self._made = {facts_of.MAIN: first, facts_of.INDEX: uuid.uuid4().hex}
            # Where the answer was late and the request was made again, what is there already is what it made.
            if self.writes.create(facts.dimensions, self._made, facts.placement) or self._is_mine():
                self._metadata()
                self.members.check_made(self.drop)
                return self._finish(facts, unpublished)
            metadata = self._metadata_when_made()
        if not unpublished and facts_of.state(metadata) == facts_of.BEING_MADE:  # its maker was killed
            return self._finish(facts, unpublished)
        return facts_of.read(metadata, self._place)

    def change(self, records: Mapping[str, Any]) -> None:
        """Merge records of facts into the metadata."""
        where = {} if self._root is None else {facts_of.THUMBNAILS: self.thumbnails.place}
        self._rest.change({"metadata": {**records, **where}})

    def publish(self, facts: IndexFacts) -> None:
        """Make an index of what was filled."""
        self.check_mine()
        self.change(facts_of.records(facts))

    def check_mine(self) -> None:
        """Of an unpublished one, before it is changed."""
        if not self._is_mine():
            raise IndexUnavailable(
                f"{self._place}: another copy or restore into it has begun meanwhile; nothing of this one is kept"
            )

    def drop(self) -> None:
        """What this process made, with its pictures; those go too where the collection is another's now."""
        self._remove_pictures(self._made)
        self.check_mine()
        self.writes.drop()

    def replication(self) -> Replication | None:
        """None where no cluster keeps it, or the server does not say."""
        try:
            views = self._rest.clusters()
            if self._rest.nodes.is_cluster and all(view is None for view in views.values()):
                return Replication({}, frozenset(), tuple(views), self.replicas, ())
            if not any(isinstance(view, dict) and view.get("status") == "enabled" for view in views.values()):
                return None
            return replication.read(views, self._rest.shards(), self.replicas)
        except Refusal as error:
            if 400 <= error.status < 500:  # it does not say: to this key, or at all
                return None
            raise
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
            raise impossible(self._place) from None

    def close(self) -> None:
        if "writes" in self.__dict__:
            self.writes.close()

    def _metadata(self) -> Mapping[str, Any] | None:
        """None where there is no collection."""
        found = self._rest.collection()
        if found is None:
            return None
        self.limits = Limits.of(found["config"])
        replicas = (found["config"].get("params") or {}).get("replication_factor")
        self.replicas = replicas if type(replicas) is int else 1
        metadata = found["config"].get("metadata") or {}
        self.members.name = facts_of.name_of(metadata)
        self.thumbnails = self._thumbnails_by(metadata)
        return metadata

    def _metadata_when_made(self) -> Mapping[str, Any] | None:
        """Where another process is making it, that is given the time to finish."""
        end = time.monotonic() + _MAKING_SECONDS
        while facts_of.state(metadata := self._metadata()) == facts_of.BEING_MADE and time.monotonic() < end:
            time.sleep(_LOOK_EVERY)
        return metadata

    def _thumbnails_by(self, metadata: Mapping[str, Any]) -> Thumbnails:
        named = str(metadata.get(facts_of.THUMBNAILS, ""))
        if self._root is not None:
            place = place_of(self._root, self._address.collection, metadata.get(facts_of.INDEX), named)
        elif is_place_of(named, self._address.collection):
            place = named
        else:
            return Thumbnails(None)
        # One object for one place: it knows which pictures there are.
        return self.thumbnails if place == self.thumbnails.place else thumbnails_at(place, self._root is None)

    def _is_mine(self) -> bool:
        metadata = (self._rest.collection() or {}).get("config", {}).get("metadata") or {}
        return {key: metadata.get(key) for key in self._made} == self._made

    def _remove_pictures(self, metadata: Mapping[str, Any]) -> None:
        """Those that were put where this process puts its own, of a collection that is no index."""
        if self._root is None:
            return
        place = own_place(self._root, self._address.collection, metadata.get(facts_of.INDEX))
        if place is not None:
            thumbnails_at(place).remove_all()

    def _finish(self, facts: IndexFacts, unpublished: bool) -> IndexFacts:
        self.writes.index_fields(facts.all_fields)
        self.is_unpublished = unpublished
        if not unpublished:
            self.change(facts_of.records(facts))
        self._metadata()  # for the limits of a new collection
        for found, to_do in kept.problems() if (kept := self.replication()) is not None else ():
            _log.warning(f"{self._place}: {found}; {to_do}")
        return facts
