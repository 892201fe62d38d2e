"""The limits of a collection in strict mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What a collection in strict mode allows, None where it sets no limit.

    answers: points of one answer; breadth: hnsw_ef; batch: points of one upsert; exact: whether a search may be;
    oversampling: how many times as many candidates as wanted.
    """

    answers: int | None = None
    breadth: int | None = None
    batch: int | None = None
    exact: bool = True
    oversampling: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        strict = config.get("strict_mode_config") or {}
        if not strict.get("enabled"):
            return cls()
        named = (strict.get(name) for name in ("max_query_limit", "search_max_hnsw_ef", "upsert_max_batchsize"))
        answers, breadth, batch = (limit if type(limit) is int and limit > 0 else None for limit in named)
        most = strict.get("search_max_oversampling")
        oversampling = float(most) if isinstance(most, int | float) and most >= 1 else None
        return cls(answers, breadth, batch, strict.get("search_allow_exact") is not False, oversampling)
