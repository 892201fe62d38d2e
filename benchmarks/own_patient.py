"""How often an embedding finds its own patient: of images whose patient has another, whether that is the nearest.

What docs/how-to/privacy.md states. Run by ``python -m benchmarks.own_patient DATASET ROOT [DATASET ROOT ...]``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from cxrsearch.encoder import Encoder
from cxrsearch.model_card import DEFAULT_MODEL
from cxrsearch.statistics import wilson
from indexer import dataset
from trainer.data.patients import differing_bits
from trainer.data.training_set import read

_BATCH = 64
# Bits of the perceptual hash in which two files of one picture differ at most.
_COPIES = 20


def main(arguments: list[str]) -> None:
    names, roots = arguments[::2], arguments[1::2]
    encoder = Encoder(DEFAULT_MODEL, threads=os.cpu_count() or 1)
    for name, root in zip(names, roots, strict=True):
        images, _ = read([dataset.load(name, Path(root))], encoder.card.image_size)
        images = images.part(np.array([patient is not None for patient in images.patients]))
        squares = images.pixels.astype(np.float32) / np.float32(255)
        vectors = np.concatenate([encoder.embed(list(squares[n : n + _BATCH])) for n in range(0, len(squares), _BATCH)])
        # One picture stored twice would be found by any likeness at all: it is no other image of the patient.
        scores = np.where(differing_bits(images) <= _COPIES, -np.inf, vectors @ vectors.T)
        own = images.owners[:, None] == images.owners[None, :]
        asked = np.flatnonzero((own & np.isfinite(scores)).any(axis=1))
        ranked = np.take_along_axis(own[asked], np.argsort(-scores[asked], axis=1)[:, :10], axis=1)
        chance = float(np.mean((own[asked].sum(axis=1) - 1) / (len(images) - 1)))
        print(f"{name}: {len(asked)} images whose patient has another among {len(images)}")
        for depth in (1, 10):
            hits = int(ranked[:, :depth].any(axis=1).sum())
            low, high = wilson(hits, len(asked))
            print(f"  among the {depth} nearest: {hits / len(asked):.1%} ({low:.1%} to {high:.1%})")
        print(f"  the nearest, by chance: {chance:.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
