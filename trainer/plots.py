"""Pictures of a run and of an evaluation, as PNG bytes."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import roc_curve

mpl.use("agg")
# Values beyond these share one colour: nobody tells apart more.
_COLOURS = 9
_PERPLEXITY = 30


def curves(history: Sequence[dict[str, float]]) -> bytes:
    """Loss, spread of the embedding and validation figures, an epoch each."""
    epochs = [line for line in history if "epoch" in line]
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = {
        "loss": ["loss"],
        "spread of the embedding": ["spread"],
        "validation patients": ["validation_map_at_r", "validation_precision_at_1"],
    }
    for axes, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name in names:
            if all(name in line for line in epochs):
                axes.plot(
                    [line["epoch"] for line in epochs],
                    [line[name] for line in epochs],
                    label={"validation_map_at_r": "MAP@R", "validation_precision_at_1": "P@1"}.get(name),
                )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=8)
    return _png(figure)


def embedding_map(embeddings: NDArray[np.float32], coloured: dict[str, Sequence[str | None]], seed: int = 0) -> bytes:
    """A map of (N, D) embeddings in two dimensions (t-SNE, van der Maaten and Hinton 2008), once for each way of
    colouring it: by label and by site, say. Distances far apart in it mean little."""
    perplexity = min(_PERPLEXITY, max(1, (len(embeddings) - 1) // 3))
    place = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings)
    figure = Figure(figsize=(5.2 * len(coloured), 4.6), layout="constrained")
    for axes, (title, values) in zip(np.atleast_1d(figure.subplots(1, len(coloured))), coloured.items(), strict=True):
        _scatter(axes, place, ["unknown" if value is None else value for value in values])
        axes.set_title(f"by {title}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    return _png(figure)


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """(C, C) counts, true class by row, voted class by column."""
    figure = Figure(figsize=(1.6 + 1.1 * len(classes), 1.2 + 0.9 * len(classes)), layout="constrained")
    axes = figure.subplots()
    part = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(classes)):
        for column in range(len(classes)):
            dark = part[row, column] > 0.5
            axes.text(
                column,
                row,
                f"{counts[row, column]}\n{part[row, column]:.0%}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark else "black",
            )
    names = [_plain(name) for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), names, fontsize=8)
    axes.set_xlabel("vote")
    axes.set_ylabel("label")
    return _png(figure)


def reliability(rows: Sequence[tuple[float, float, int]], error: float) -> bytes:
    """Share of the vote against how often it was right (see ``metrics.calibration``)."""
    figure = Figure(figsize=(4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    predicted, right, number = (np.array(column) for column in zip(*rows, strict=True))
    axes.scatter(predicted, right, s=20 + 180 * number / max(number.max(), 1), alpha=0.7)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("share of the vote")
    axes.set_ylabel("part that is right")
    axes.set_title(f"expected calibration error {error:.3f}", fontsize=10)
    return _png(figure)


def roc(predicted: dict[str, NDArray[np.float64]], positive: NDArray[np.bool_]) -> bytes:
    """Sensitivity against one minus specificity of several models' probabilities of one event."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, score in predicted.items():
        false, true, _ = roc_curve(positive, score)
        axes.plot(false, true, label=_plain(name))
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(fontsize=7)
    return _png(figure)


def calibration(predicted: dict[str, NDArray[np.float64]], positive: NDArray[np.bool_], bins: int = 8) -> bytes:
    """How often the event came against the probability that was given, in bins of equally many cases."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, score in predicted.items():
        parts = np.array_split(np.argsort(score, kind="stable"), bins)
        axes.plot([score[p].mean() for p in parts], [positive[p].mean() for p in parts], "o-", label=_plain(name))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability that was given")
    axes.set_ylabel("part with the event")
    axes.legend(fontsize=7)
    return _png(figure)


def _scatter(axes: Axes, place: NDArray[np.float32], values: Sequence[str]) -> None:
    common = [value for value, _ in Counter(values).most_common(_COLOURS)]
    shown = [value if value in common else "others" for value in values]
    for number, value in enumerate([*common, "others"]):
        mine = np.array([v == value for v in shown])
        if mine.any():
            colour = "0.6" if value == "others" else f"C{number}"
            axes.scatter(
                place[mine, 0], place[mine, 1], s=9, color=colour, label=f"{_plain(value)} ({mine.sum()})", linewidths=0
            )
    axes.legend(fontsize=6, loc="best", framealpha=0.6)


def _plain(text: str) -> str:
    """Text of a table without matplotlib's own markup ($...$) and not longer than a legend bears."""
    return text.replace("$", r"\$")[:40]


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
