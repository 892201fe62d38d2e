"""Search every judged image, by the encoder and by every baseline.

Each query is searched in two galleries, its own patient left out of both: "archive", the images that were learnt
from, as in use; "unseen", the other images that were not, as metric-learning papers do.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxrsearch import __version__
from cxrsearch.statistics import Figure
from trainer.data.images import Images
from trainer.evaluation import baselines
from trainer.learning.embed import Embedder
from trainer.metrics.findings import FindingsRetrieval, joined_findings, retrieve_findings
from trainer.metrics.retrieval import Retrieval, constant, joined, retrieve

ENCODER = "the encoder"
FROZEN = "ImageNet trunk, frozen"
THUMBNAILS = "32 x 32 thumbnails"
GALLERIES = ("archive", "unseen")


@dataclass(frozen=True)
class Evaluation:
    """What came of one protocol.

    retrievals: gallery -> method -> its queries; methods are the encoder first, then its baselines. Each a
    :class:`Retrieval` where every image is in exactly one class, else a :class:`FindingsRetrieval`.
    queries and galleries: numbers, among the images that were given, of each query and of each fold's gallery images
    (what a Retrieval's neighbours count): query n is of fold ``fold[n]``. sources: (Q,) where each query is from.
    map_of: the numbers and embeddings of the first fold's judged images.
    """

    name: str
    protocol: str
    retrievals: dict[str, dict[str, Retrieval | FindingsRetrieval]]
    queries: NDArray[np.int64]
    fold: NDArray[np.int64]
    sources: NDArray[np.str_]
    galleries: dict[str, list[NDArray[np.int64]]]
    map_of: tuple[NDArray[np.int64], NDArray[np.float32]]
    leakage: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def figures(self, gallery: str, method: str) -> dict[str, Figure]:
        return self._figures[gallery][method]

    @cached_property
    def _figures(self) -> dict[str, dict[str, dict[str, Figure]]]:
        """Bootstrapped once: the table, the JSON and the page all ask."""
        return {g: {name: one.figures() for name, one in methods.items()} for g, methods in self.retrievals.items()}

    @cached_property
    def by_source(self) -> dict[str, dict[str, dict[str, dict[str, Figure]]]]:
        """source -> gallery -> method -> figures, where the queries are of several sources."""
        names = sorted(set(self.sources.tolist()))
        return {
            source: {
                gallery: {name: one.part(self.sources == source).figures() for name, one in methods.items()}
                for gallery, methods in self.retrievals.items()
            }
            for source in (names if len(names) > 1 else [])
        }

    def neighbours(self, gallery: str, query: int) -> NDArray[np.int64]:
        """Numbers, among all images, of what query ``query`` found, nearest first; the encoder's, of one class each."""
        retrieval = self.retrievals[gallery][ENCODER]
        assert isinstance(retrieval, Retrieval)
        found = retrieval.neighbours[query]
        numbers: NDArray[np.int64] = self.galleries[gallery][int(self.fold[query])][found[found >= 0]]
        return numbers


@dataclass(frozen=True)
class Judging:
    """One encoder with what it was learnt from, or an archive (numbers of images), and what it is judged on."""

    embed: Embedder
    learnt: NDArray[np.int64]
    judged: NDArray[np.int64]


def judge(name: str, protocol: str, images: Images, judgings: list[Judging], leakage: str = "") -> Evaluation:
    """Search every judged image in both galleries, by the encoder and by every baseline."""
    galleries = [gallery for gallery in GALLERIES if gallery != "archive" or all(len(one.learnt) for one in judgings)]
    found: dict[str, dict[str, list[Any]]] = {gallery: {} for gallery in galleries}
    fixed = {
        FROZEN: baselines.frozen_trunk(images),
        THUMBNAILS: baselines.thumbnails(images),
        "border only (outer 1/16)": baselines.borders(images),
    }
    dark = {
        "lungs blacked out": baselines.without_lungs(images),
        "border blacked out": baselines.without_border(images),
    }
    shapes = baselines.shapes(images)
    for one in judgings:
        both = np.concatenate([one.learnt, one.judged])
        vectors = {ENCODER: _scattered(one.embed, images.pixels, both)}
        vectors |= {f"the encoder, {what}": _scattered(one.embed, pixels, both) for what, pixels in dark.items()}
        for gallery in galleries:
            at = one.learnt if gallery == "archive" else one.judged
            for method, features in (vectors | fixed).items():
                found[gallery].setdefault(method, []).append(search(images, features, one.judged, at))
            if images.exclusive:
                found[gallery].setdefault("image shape", []).append(_by_shape(images, shapes, one.judged, at))
                shares = np.bincount(images.labels[at], minlength=len(images.classes)) / max(len(at), 1)
                majority = constant(images.labels[one.judged], images.owners[one.judged], images.classes, shares)
                found[gallery].setdefault("the majority class", []).append(majority)
    first = judgings[0]
    queries = np.concatenate([one.judged for one in judgings])
    return Evaluation(
        name,
        protocol,
        {g: {method: _joined(parts) for method, parts in methods.items()} for g, methods in found.items()},
        queries,
        np.concatenate([np.full(len(one.judged), n) for n, one in enumerate(judgings)]),
        np.array(images.sources)[queries],
        {"archive": [one.learnt for one in judgings], "unseen": [one.judged for one in judgings]},
        (first.judged, first.embed(images.pixels[first.judged])),
        leakage,
        _facts(images, judgings),
    )


def search(
    images: Images, features: NDArray[np.float32], queries: NDArray[np.int64], at: NDArray[np.int64]
) -> Retrieval | FindingsRetrieval:
    """Search images by what is known of all, among others: ``queries`` and ``at`` are numbers, features (N, D)."""
    owners = images.owners
    if not images.exclusive:
        gallery = (features[at], images.findings[at], owners[at])
        return retrieve_findings(features[queries], images.findings[queries], owners[queries], images.classes, gallery)
    of_class = (features[at], images.labels[at], owners[at])
    return retrieve(features[queries], images.labels[queries], owners[queries], images.classes, of_class)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything a table of an evaluation is made of."""
    parts = range(int(evaluation.fold.max()) + 1)
    return {
        "name": evaluation.name,
        "protocol": evaluation.protocol,
        "leakage": evaluation.leakage,
        **evaluation.facts,
        "galleries": {
            gallery: {method: _plain(evaluation.figures(gallery, method)) for method in methods}
            for gallery, methods in evaluation.retrievals.items()
        },
        "sources": {
            source: {
                gallery: {method: _plain(figures) for method, figures in methods.items()}
                for gallery, methods in galleries.items()
            }
            for source, galleries in evaluation.by_source.items()
        },
        "parts": [
            {gallery: methods[ENCODER].part(evaluation.fold == number).means() for gallery, methods in found.items()}
            for found in [evaluation.retrievals]
            for number in parts
        ],
    }


def hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} CPU cores"


def _by_shape(
    images: Images, shapes: NDArray[np.float32], queries: NDArray[np.int64], at: NDArray[np.int64]
) -> Retrieval:
    owners, labels = images.owners, images.labels
    gallery = (shapes[at], labels[at], owners[at])
    return retrieve(shapes[queries], labels[queries], owners[queries], images.classes, gallery, "distance")


def _joined(parts: Sequence[Any]) -> Retrieval | FindingsRetrieval:
    return joined(parts) if isinstance(parts[0], Retrieval) else joined_findings(parts)


def _plain(figures: dict[str, Figure]) -> dict[str, dict[str, float]]:
    return {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in figures.items()}


def _facts(images: Images, judgings: list[Judging]) -> dict[str, Any]:
    judged = np.concatenate([one.judged for one in judgings])
    present = (images.findings[judged] == 1).sum(axis=0)
    return {
        "queries": len(judged),
        "patients": len(set(images.owners[judged].tolist())),
        "classes": {name: int(number) for name, number in zip(images.classes, present, strict=True)},
        "folds": len(judgings),
        "version": __version__,
        "day": datetime.date.today().isoformat(),
        "hardware": hardware(),
    }


def _scattered(embed: Embedder, pixels: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, D) embeddings where ``at`` says, zeros elsewhere."""
    found = embed(pixels[at])
    vectors = np.zeros((len(pixels), found.shape[1]), dtype=np.float32)
    vectors[at] = found
    return vectors
