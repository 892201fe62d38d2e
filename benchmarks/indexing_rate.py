"""How much of the encoder's own speed is left when whole files are indexed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from cxrsearch import settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.encoder import Encoder
from cxrsearch.model_card import DEFAULT_MODEL
from cxrsearch.store.contract import DatasetFacts, IndexFacts
from cxrsearch.store.edge import EdgeStore
from indexer import dataset, pipeline

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
MAPPING = """
name = "all"
[images]
glob = ["covid-chestxray/images/*", "darkcovidnet/*/*", "covid-cxnet/*"]
"""
ROUNDS = 3
BATCH = 32


def measure(folder: Path) -> str:
    folder.mkdir()
    if not DATA.is_dir():
        return f"## Indexing rate\n\nNot measured: the images of {DATA.name} are not here.\n"
    encoder, alone, indexed = Encoder(DEFAULT_MODEL), [], []
    for number in range(ROUNDS):  # turn about, so that a noisy minute hits both
        alone.append(_encoder_alone(encoder))
        indexed.append(_indexing(encoder, folder / str(number)))
    best, reached = float(np.median(alone)), float(np.median(indexed))
    return f"""\
## Indexing rate: files to a flushed index

`benchmarks/indexing_rate.py`, all images of `../shared/data` (JPEG, longest side 512) in one run, \
{os.cpu_count()} workers, median of {ROUNDS} alternating rounds.

| | images/s |
|---|---|
| the encoder alone, on ready-made batches of {BATCH} | {best:.0f} |
| `cxrsearch index`: read, embed, store, flush | {reached:.0f} |
| **ratio** (target: 0.90) | **{reached / best:.2f}** |
"""


def _encoder_alone(encoder: Encoder) -> float:
    rng = np.random.default_rng(0)
    pictures = list(rng.random((BATCH, encoder.card.image_size, encoder.card.image_size), dtype=np.float32))
    encoder.embed(pictures)
    started, batches = time.perf_counter(), 12
    for _ in range(batches):
        encoder.embed(pictures)
    return batches * BATCH / (time.perf_counter() - started)


def _indexing(encoder: Encoder, folder: Path) -> float:
    identity = load_identity(settings.key_file(), create=True)
    assert identity is not None
    facts = IndexFacts(encoder.card.name, encoder.card.fingerprint, encoder.card.dimensions, {}, {})
    store = EdgeStore.create(folder, facts)
    mapping = folder.with_suffix(".toml")
    mapping.write_text(MAPPING)
    data = dataset.load(str(mapping), DATA)
    store.declare(store.facts.declaring("all", DatasetFacts("all", ""), {}))
    with (folder / "rejected.jsonl").open("w") as rejected:
        summary = pipeline.run(data, store, DEFAULT_MODEL, identity, rejected, pipeline.Options(os.cpu_count() or 1))
    store.close()
    return summary.indexed / summary.seconds
