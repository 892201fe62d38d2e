"""The facts of an index in the metadata of its collection: a record for each, which two writers cannot take for
each other's.

    cxrsearch                   format, model; or that the collection is still being made or filled
    cxrsearch.dataset.NAME      one dataset
    cxrsearch.field.NAME        one field
    cxrsearch.forgotten.TOKEN   one patient who was forgotten
    cxrsearch.calibration, cxrsearch.nearness, cxrsearch.graph, cxrsearch.placement
    cxrsearch.index             a random name, by which an index is known from another of its collection's name
    cxrsearch.thumbnails        the folder or address where those who write the index keep its thumbnails

A server merges metadata by these keys, in one step, so a writer sends the records that it changes and no others. It
keeps objects in no order: each record is a text of JSON, and those that have an order carry their number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cxrsearch.errors import IndexUnavailable, InputError
from cxrsearch.store.contract import IndexFacts

MAIN = "cxrsearch"
# The record of a collection that its maker has not finished, and of one whose copy or restore has not ended.
BEING_MADE = {"being_made": True}
UNPUBLISHED = {"unpublished": True}
THUMBNAILS = f"{MAIN}.thumbnails"
_LISTED = ("dataset", "field")
_SINGLE = ("calibration", "nearness", "graph", "placement")
INDEX = f"{MAIN}.index"


def records(facts: IndexFacts) -> dict[str, Any]:
    """All records of an index, by key."""
    data = facts.as_json()
    made: dict[str, Any] = {MAIN: {name: data[name] for name in ("format", "model", "fingerprint", "dimensions")}}
    for kind in _LISTED:
        for position, (name, one) in enumerate(data[f"{kind}s"].items()):
            made[f"{MAIN}.{kind}.{name}"] = json.dumps({"position": position, **one})
    made |= {f"{MAIN}.forgotten.{token}": "true" for token in data["forgotten"]}
    return made | {f"{MAIN}.{name}": json.dumps(data[name]) for name in _SINGLE if data[name] is not None}


def changes(before: IndexFacts, after: IndexFacts) -> dict[str, Any]:
    """The records to be merged into those of ``before``: None removes one."""
    old, new = records(before), records(after)
    return {key: new.get(key) for key in (*old, *new) if new.get(key) != old.get(key)}


def state(metadata: Mapping[str, Any] | None) -> Any:
    """The main record, None in a collection that is no index."""
    return (metadata or {}).get(MAIN)


def name_of(metadata: Mapping[str, Any] | None) -> Any:
    """What tells an index from another of its collection's name; those of older versions have their main record."""
    return (metadata or {}).get(INDEX) or state(metadata)


def read(metadata: Mapping[str, Any] | None, place: str) -> IndexFacts:
    """Raises IndexUnavailable for a collection that is no index, or none of ours to read."""
    main = state(metadata)
    if main == UNPUBLISHED:
        raise IndexUnavailable(f"{place}: a copy or restore into it has not ended. Run it again.")
    if main == BEING_MADE:
        raise IndexUnavailable(f"{place}: is being made by another process, or was when that stopped. Index again.")
    if not isinstance(main, dict) or not metadata:
        return IndexFacts.from_json(main, place)
    try:
        parts = {kind: _listed(metadata, f"{MAIN}.{kind}.") for kind in _LISTED}
        singles = {name: json.loads(text) for name in _SINGLE if (text := metadata.get(f"{MAIN}.{name}")) is not None}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise IndexUnavailable(f"{place}: its settings are damaged. Restore it or index again.") from None
    prefix = f"{MAIN}.forgotten."
    forgotten = [key.removeprefix(prefix) for key in metadata if key.startswith(prefix)]
    data = {"fields": parts["field"], "datasets": parts["dataset"], "forgotten": forgotten, **singles}
    return IndexFacts.from_json({**data, **main}, place)


def check_kept(wanted: IndexFacts, kept: IndexFacts, before: IndexFacts) -> None:
    """Raises InputError where another process declared, at the same time, what does not go with ``wanted``.

    kept: the facts as they are after writing; before: those that ``wanted`` was made of."""
    for name, dataset in wanted.datasets.items():
        if dataset != before.datasets.get(name) and kept.datasets.get(name) != dataset:
            raise InputError(
                f"another process is indexing another dataset {name!r} into this index. Give one of them a name of its"
                " own with --name."
            )
    for name, field in wanted.fields.items():
        found = kept.fields.get(name)
        if found is not None and found.type is not field.type:
            raise InputError(
                f"another process has just declared field {name!r} as a {found.type}; here it is a {field.type}."
                " Rename the field in the dataset TOML or use another index."
            )


def _listed(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Records of one kind, in their order; two of one number, of two writers, by name."""
    found = {key.removeprefix(prefix): json.loads(text) for key, text in metadata.items() if key.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda item: (int(item[1]["position"]), item[0])))
