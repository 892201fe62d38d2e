"""How much of the encoder's own speed is left when whole files are indexed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from cxrsearch import settings
from cxrsearch.encoder import DEFAULT_MODEL, Encoder
from cxrsearch.identity import load_identity
from cxrsearch.store.contract import DatasetFacts, IndexFacts
from cxrsearch.store.edge import EdgeStore
from indexer import dataset, pipeline

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SETS = ("covid-chestxray", "darkcovidnet", "covid-cxnet")
ROUNDS = 3


def measure(folder: Path) -> str:
    if not DATA.is_dir():
        return f"## Indexing rate\n\nNot measured: the images of {DATA.name} are not here.\n"
    encoder, alone, indexed = Encoder(DEFAULT_MODEL), [], []
    for number in range(ROUNDS):  # turn about, so that a noisy minute hits both
        alone.append(_encoder_alone(encoder))
        indexed.append(_indexing(encoder, folder / str(number)))
    best, reached = float(np.median(alone)), float(np.median(indexed))
    return f"""\
## Indexing rate: files to a flushed index

`benchmarks/indexing_rate.py`, {" + ".join(SETS)} of `../shared/data` (JPEG, longest side 512), \
{os.cpu_count()} workers, median of {ROUNDS} alternating rounds.

| | images/s |
|---|---|
| the encoder alone, on ready-made batches of {pipeline.BATCH} | {best:.0f} |
| `cxrsearch index`: read, embed, store, flush | {reached:.0f} |
| **ratio** (target: 0.90) | **{reached / best:.2f}** |
"""


def _encoder_alone(encoder: Encoder) -> float:
    rng = np.random.default_rng(0)
    pictures = list(rng.random((pipeline.BATCH, encoder.card.image_size, encoder.card.image_size), dtype=np.float32))
    encoder.embed(pictures)
    started, batches = time.perf_counter(), 12
    for _ in range(batches):
        encoder.embed(pictures)
    return batches * pipeline.BATCH / (time.perf_counter() - started)


def _indexing(encoder: Encoder, folder: Path) -> float:
    identity = load_identity(settings.key_file(), create=True)
    assert identity is not None
    facts = IndexFacts(encoder.card.name, encoder.card.fingerprint, encoder.card.dimensions, {}, {})
    store, images, seconds = EdgeStore.create(folder, facts), 0, 0.0
    for name in SETS:
        data = dataset.load(name, DATA / name)
        store.declare(store.facts.declaring(name, DatasetFacts(name, str(data.root)), data.mapping.declared))
        summary = pipeline.run(data, store, encoder, identity, os.cpu_count() or 1, None, folder / "rejected.jsonl")
        images, seconds = images + summary.indexed, seconds + summary.seconds
    store.close()
    return images / seconds
