"""Vectors of three kinds, as an archive may have them: what a graph finds depends on that.

augmented   embeddings of real radiographs, each moved, turned, scaled and toned at random, by the model that ships
between     points between an embedding of a real radiograph and one of its ten nearest: few true dimensions
noise       uniform over the sphere: the hardest case
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrsearch.encoder import Encoder
from cxrsearch.errors import ImageError
from cxrsearch.imaging.read import read
from cxrsearch.model_card import DEFAULT_MODEL

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
KINDS = ("augmented", "between", "noise")
# Folders whose radiographs may be used to choose anything by.
_FOLDERS = ("covid-chestxray", "covid-chestxray-more", "darkcovidnet", "nih", "rsna-normal")
_BATCH = 32
_NEAREST = 10


def vectors_of(kind: str, count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, D) float32 of unit length."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        made: NDArray[np.float32] = rng.normal(size=(count, Encoder(DEFAULT_MODEL).card.dimensions)).astype(np.float32)
    elif kind == "augmented":
        made = _augmented(count, rng)
    else:
        real = _augmented(None, rng)
        similar = real @ real.T
        np.fill_diagonal(similar, -1)
        near = np.argsort(-similar, axis=1)[:, :_NEAREST]
        first = rng.integers(len(real), size=count)
        second = near[first, rng.integers(_NEAREST, size=count)]
        part = rng.random((count, 1), dtype=np.float32)
        made = part * real[first] + (1 - part) * real[second]
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


def _augmented(count: int | None, rng: np.random.Generator) -> NDArray[np.float32]:
    """Embeddings of so many augmented radiographs; None: of every radiograph once, as it is."""
    encoder, squares = Encoder(DEFAULT_MODEL), list[NDArray[np.float32]]()
    for folder in _FOLDERS:
        for path in sorted((DATA / folder).rglob("*.jp*g")):
            try:
                squares += [encoder.prepare(radiograph) for radiograph in read(path)]
            except ImageError:
                continue
    order = range(len(squares)) if count is None else (n % len(squares) for n in range(count))
    made, batch = [], list[NDArray[np.float32]]()
    for place in order:
        batch.append(squares[place] if count is None else _changed(squares[place], rng))
        if len(batch) == _BATCH:
            made.append(encoder.embed_prepared(batch))
            batch = []
    return np.concatenate([*made, *([encoder.embed_prepared(batch)] if batch else [])])


def _changed(square: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Turned by up to 8 degrees, scaled and moved by up to 8 %, its tone bent; (S, S) float32 in 0..1."""
    side = len(square)
    angle, scale = np.deg2rad(rng.uniform(-8, 8)), rng.uniform(0.92, 1.08)
    cos, sin, (x, y) = np.cos(angle) / scale, np.sin(angle) / scale, rng.uniform(-0.08, 0.08, size=2) * side
    middle = side / 2
    affine = (cos, sin, middle - cos * (middle + x) - sin * (middle + y))
    affine += (-sin, cos, middle + sin * (middle + x) - cos * (middle + y))
    turned = Image.fromarray(square).transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(turned), 0, 1) ** np.float32(rng.uniform(0.8, 1.25))
