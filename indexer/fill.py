"""A dataset into the index at a place: made where there is none, declared, filled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxrsearch import settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.device import Device
from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError
from cxrsearch.files import replacing
from cxrsearch.store import create_store, is_url
from cxrsearch.store.contract import DatasetFacts, IndexFacts
from cxrsearch.store.placement import Placement
from indexer import pipeline
from indexer.dataset import Dataset
from indexer.from_embeddings import EmbeddingsFiles
from indexer.summary import Summary


def fill(
    data: Dataset,
    index: str,
    model: Path,
    options: pipeline.Options,
    rejected: Path | None = None,
    retry_rejected: bool = False,
    renamed: bool = False,
    device: Device = Device.CPU,
    placement: Placement | None = None,
    embeddings: Sequence[str] = (),
) -> tuple[Summary, Path]:
    """Put a dataset into the index at ``index``, a folder or an address, with the model in the folder ``model``.

    rejected: where the list of rejected files goes; by default into the index, or the working folder beside a server.
    retry_rejected: read only the files on that list. renamed: the user named the dataset, which may have moved.
    device: what embeds. placement: how a cluster keeps it; an index that is there has to be kept so.
    embeddings: files of embeddings, by name or pattern, that are stored in place of reading images.
    Gives the summary, and where the list is.
    Raises InputError, UsageError, IndexUnavailable, ModelError, ModelMismatch.
    """
    encoder = Encoder(model, device=device)  # on a processor only to look at it: each process has one of its own
    card = encoder.card
    identity = load_identity(settings.key_file(), create=True)
    assert identity is not None
    mapping = data.mapping
    if embeddings:  # looked at before an index is made or changed
        files = EmbeddingsFiles(embeddings, data, identity, card)
        options = replace(options, engine=lambda *_: files)
    facts = DatasetFacts(
        mapping.patient_namespace,
        "" if mapping.privacy.paths == "hashed" else str(data.root.resolve()),
        tuple(mapping.identifiers),
        mapping.numberings.get("patient"),
        identity.place(data.root),
    )
    list_of_rejected = rejected or (Path("rejected.jsonl") if is_url(index) else Path(index) / "rejected.jsonl")
    if retry_rejected:
        options = replace(options, only=_labels(list_of_rejected))
    empty = IndexFacts(card.name, card.fingerprint, card.dimensions, {}, {}, placement=placement)
    with create_store(index, empty.declaring(mapping.name, facts, mapping.declared)) as store:
        if placement is not None:
            placement.check(store.facts.placement)
        store.facts.check_model(card.name, card.fingerprint, card.dimensions)
        declared = store.facts.declaring(mapping.name, facts, mapping.declared, moved=renamed)
        if declared != store.facts:
            store.declare(declared)
        # A run that fails leaves the old list, so that --retry-rejected can be run again. Beside a server the list is
        # in the working folder, where another run may be writing its own.
        with (
            replacing(list_of_rejected, private=True, several=is_url(index)) as draft,
            draft.open("w", encoding="utf-8") as lines,
        ):
            embeds = encoder if device is not Device.CPU else None
            return pipeline.run(data, store, model, identity, lines, options, embeds), list_of_rejected


def _labels(path: Path) -> frozenset[str]:
    """The files that the last run rejected. Raises InputError."""
    try:
        return frozenset(str(json.loads(line)["path"]) for line in path.read_text("utf-8").splitlines())
    except FileNotFoundError:
        raise InputError(f"{path}: no list of rejected files; index without --retry-rejected") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise InputError(f"{path}: not a list of rejected files; index without --retry-rejected") from None
