"""In how many parts a cluster keeps an index, and on how many nodes each: fixed when it is made, kept in its facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cxrsearch.errors import UsageError

# Of a cluster, and replicas of each.
MOST_SHARDS = 1000


@dataclass(frozen=True)
class Placement:
    """How a cluster keeps an index: in so many shards, each in so many replicas, on nodes of their own. None: as the
    server does by itself, which is one replica."""

    shards: int | None = None
    replicas: int | None = None

    @property
    def acknowledging(self) -> int | None:
        """The replicas that a write waits for: a majority, and never more than are left when one node is lost. Those
        that fail are out of use before a write is acknowledged, so what is acknowledged is on every replica in use."""
        return None if self.replicas is None else max(1, min(self.replicas // 2 + 1, self.replicas - 1))

    @classmethod
    def from_json(cls, data: Any) -> Placement | None:
        """Raises KeyError, TypeError, ValueError for what is none."""
        if data is None:
            return None
        numbers = [None if data[name] is None else int(data[name]) for name in ("shards", "replicas")]
        if any(number is not None and not 1 <= number <= MOST_SHARDS for number in numbers):
            raise ValueError
        return cls(*numbers)

    def over(self, kept: Placement | None) -> Placement:
        """As asked for, and as before where that says nothing."""
        kept = kept or Placement()
        return Placement(self.shards or kept.shards, self.replicas or kept.replicas)

    def check(self, kept: Placement | None) -> None:
        """Raises UsageError where an index is kept in another way than is asked for."""
        kept = kept or Placement()
        for name, asked, is_kept in (
            ("--shards", self.shards, kept.shards),
            ("--replicas", self.replicas, kept.replicas),
        ):
            if asked not in (None, is_kept):
                raise UsageError(
                    f"{name} {asked}: the index is there, made {f'with {is_kept}' if is_kept else 'without'}. Leave it"
                    f" out, or cxrsearch copy the index into a new one with {name} {asked}."
                )
