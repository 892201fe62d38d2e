"""A new question to an index, without learning an encoder anew: embeddings and clinical facts -> an outcome.

The last experiment of Zhong et al. 2021: is there something in the image that the clinical facts do not say? The same
cases, the same folds and the same patients' draws for every model, so that their difference has an interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from cxrsearch.errors import InputError
from cxrsearch.statistics import Figure, Floats, ece, figure, resampled
from trainer.metrics import probabilities as scores
from trainer.metrics.retrieval import BOOTSTRAPS
from trainer.transfer import models
from trainer.transfer.cases import Cases

Mask = NDArray[np.bool_]

FOLDS = 5
CLINICAL, IMAGE, BOTH, VOTE, BASE = "clinical facts", "image embedding", "both", "neighbours' vote", "base rate"
# Patients with the event, and without it, below which no figure is given: a fold would have fewer than three, and the
# interval of an AUC of 0.7 would be 0.4 wide (Hanley and McNeil, Radiology 1982) even with one image a patient. It was
# 20 until covid-chestxray, the published example, turned out to have 19 patients who died.
FEWEST = 15
# What a single field may tell of the target before it is taken for the answer itself.
LEAKING_AUC = 0.98
_LARGEST_CLASSES = 12


@dataclass(frozen=True)
class Transfer:
    """predicted: model -> (repeats, N, C): probabilities of the C classes, or the number (C = 1); NaN for a case
    that was never judged. figures: model -> metric -> value with interval. gain: "both" minus "clinical facts",
    in the same metrics. judged: (N,), which cases were."""

    cases: Cases
    protocol: str
    predicted: dict[str, Floats]
    judged: Mask
    figures: dict[str, dict[str, Figure]]
    gain: dict[str, Figure]


def without_leaks(cases: Cases, trusted: tuple[str, ...], seed: int) -> Cases:
    """The cases without fields that, alone, tell the target too well to be anything but the answer."""
    refused = dict(cases.refused)
    suspects = [name for name in cases.facts.columns if name not in trusted] if cases.classes else []
    folds = [
        (learnt, judged, models.inner_folds(cases.truth[learnt], cases.owners[learnt], len(cases.classes), seed))
        for learnt, judged in (_folds(cases, seed) if suspects else ())
    ]
    for name in suspects:
        area = _area_alone(cases, str(name), folds)
        if area > LEAKING_AUC:
            refused[str(name)] = f"it alone predicts {cases.target} (AUC {area:.3f}): it may be the answer itself"
    kept = [name for name in cases.facts.columns if name not in refused]
    return replace(cases, facts=cases.facts[kept], refused=refused)


def check_events(cases: Cases, judged: Mask | None = None) -> None:
    """Raises InputError, with the number that would be needed, for too few patients with or without an event."""
    chosen = np.ones(len(cases), dtype=bool) if judged is None else judged
    owners, truth = cases.owners[chosen], cases.truth[chosen]
    if not cases.classes:
        people = len(set(owners.tolist()))
        if people < 2 * FEWEST:
            raise InputError(
                f"{cases.target}: known of {people} patients; at least {2 * FEWEST} are needed for a figure"
            )
        return
    if len(cases.classes) > _LARGEST_CLASSES:
        raise InputError(f"{cases.target}: {len(cases.classes)} values; group them, or choose some with --where")
    for number, name in enumerate(cases.classes):
        people = len(set(owners[truth == number].tolist()))
        if people < FEWEST:
            raise InputError(
                f"{cases.target} = {name}: {people} patients; at least {FEWEST} of every value are needed for a figure"
                " (docs/how-to/transfer.md). Index more, or leave the value out with --where."
            )


def in_folds(cases: Cases, repeats: int, seed: int) -> Transfer:
    """Five folds by patient, drawn ``repeats`` times; in each, strength is chosen on inner folds."""
    check_events(cases)
    parts = [list(_folds(cases, seed + repeat)) for repeat in range(repeats)]
    return _judged(cases, f"{FOLDS} folds by patient, drawn {repeats} times", parts, seed)


def leaving_out(cases: Cases, field: str, seed: int) -> Transfer:
    """Each value of ``field`` judged by models that saw no case of it, nor of its patients."""
    check_events(cases)
    values = np.array([value if value is not None else "" for value in cases.values(field)])
    if len(set(values.tolist()) - {""}) < 2:
        raise InputError(f"--leave-out {field}: fewer than two values are known; nothing to leave out")
    parts = []
    for value in sorted(set(values.tolist()) - {""}):
        judged = values == value
        learnt = ~judged & ~np.isin(cases.owners, cases.owners[judged])
        if learnt.any() and _distinct(cases, learnt) >= len(cases.classes):
            parts.append((learnt, judged))
    if not any(_distinct(cases, judged) > 1 for _, judged in parts):
        raise InputError(
            f"--leave-out {field}: no {field} can be judged by the others: each has one value of {cases.target} only,"
            " or its patients, or those of a value, are in no other. Leave out another field."
        )
    return _judged(cases, f"one {field} left out at a time", [parts], seed)


def _distinct(cases: Cases, chosen: Mask) -> int:
    """How many values of the target some of the cases have."""
    return len(set(cases.truth[chosen].tolist()))


def from_one_to_another(cases: Cases, learnt: Mask, judged: Mask, words: str, seed: int) -> Transfer:
    """Models of some cases judged on others; patients of both are judged only."""
    learnt = learnt & ~np.isin(cases.owners, cases.owners[judged])
    check_events(cases, learnt)
    check_events(cases, judged)
    return _judged(cases, words, [[(learnt, judged)]], seed)


def _folds(cases: Cases, seed: int) -> Iterator[tuple[Mask, Mask]]:
    kind = StratifiedGroupKFold if cases.classes else GroupKFold
    splitter = kind(FOLDS, shuffle=True, random_state=seed)
    for _, judged in splitter.split(cases.vectors, cases.truth, cases.owners):
        mask = np.zeros(len(cases), dtype=bool)
        mask[judged] = True
        yield ~mask, mask


def _judged(cases: Cases, protocol: str, repeats: list[list[tuple[Mask, Mask]]], seed: int) -> Transfer:
    classes, dimensions = len(cases.classes), cases.vectors.shape[1]
    tables = {IMAGE: (models.frame(cases.vectors, None), dimensions)}
    if len(cases.facts.columns):
        tables = {
            CLINICAL: (models.frame(None, cases.facts), 0),
            **tables,
            BOTH: (models.frame(cases.vectors, cases.facts), dimensions),
        }
    tables |= {name: (table, 0) for name, table in cases.baselines.items()}
    shape = (len(repeats), len(cases), max(classes, 1))
    predicted = {name: np.full(shape, np.nan) for name in [*tables, VOTE, BASE]}
    fold = np.full(shape[:2], -1)
    for number, parts in enumerate(repeats):
        for place, (learnt, judged) in enumerate(parts):
            fold[number, judged] = place
            truth = cases.truth[learnt]
            inner = models.inner_folds(truth, cases.owners[learnt], classes, seed)
            for name, (table, embedded) in tables.items():
                model = models.fitted(table[learnt], truth, classes, embedded, inner)
                predicted[name][number, judged] = models.predicted(model, table[judged], classes)
            predicted[VOTE][number, judged] = models.neighbours_vote(
                cases.vectors[learnt], truth, cases.vectors[judged], classes
            )
            base = np.bincount(truth.astype(int), minlength=classes) / len(truth) if classes else truth.mean()
            predicted[BASE][number, judged] = base
    known = ~np.isnan(predicted[IMAGE]).any(axis=(0, 2))
    weights = resampled(cases.owners[known], BOOTSTRAPS, seed)
    series = {name: _series(cases, known, one[:, known], fold[:, known], weights) for name, one in predicted.items()}
    for name in (BASE, VOTE):  # the same is predicted for all; shares of nought and one have no logit
        series[name].pop("slope", None)
    wide = _widening(repeats[0])
    gain = {}
    if BOTH in series:
        gain = {metric: figure(series[BOTH][metric] - series[CLINICAL][metric], wide) for metric in series[BOTH]}
    figures = {
        name: {metric: _within(metric, figure(one, wide)) for metric, one in found.items()}
        for name, found in series.items()
    }
    return Transfer(cases, protocol, predicted, known, figures, gain)


def _widening(parts: list[tuple[Mask, Mask]]) -> float:
    """How much wider an interval has to be than a bootstrap of out-of-fold predictions says: the folds' models learnt
    from each other's cases and are not independent (Nadeau and Bengio, Machine Learning 2003). Without
    it, the intervals of an AUC of pure noise held 0.5 too seldom in tests/test_transfer.py."""
    if len(parts) == 1:
        return 1.0
    shares = [judged.sum() / learnt.sum() for learnt, judged in parts]
    return float(np.sqrt(1 + len(parts) * np.mean(shares)))


def _within(metric: str, figure: Figure) -> Figure:
    """The figure with its interval cut to where such a figure can be."""
    if metric not in ("AUC", "AUPRC", "Brier", "ECE"):
        return figure
    return replace(figure, low=max(figure.low, 0.0), high=min(figure.high, 1.0))


def _series(
    cases: Cases, known: Mask, predicted: Floats, fold: NDArray[np.int64], weights: Floats
) -> dict[str, Floats]:
    """Every metric of (repeats, N, C) predictions, (1 + rounds,), the mean over the repeats."""
    truth, found = cases.truth[known], []
    for one, parts in zip(predicted, fold, strict=True):
        if not cases.classes:
            numbers = {"r": scores.pearson, "R2": scores.r2, "MAE": scores.mae}
            found.append({name: score(one[:, 0], truth, weights) for name, score in numbers.items()})
            continue
        made = {"AUPRC": scores.auprc, "Brier": scores.brier, "slope": scores.calibration_slope, "ECE": ece}
        events = [1] if cases.binary else range(len(cases.classes))
        each = [
            {"AUC": scores.auc(one[:, c], truth == c, weights, parts)}
            | {name: score(one[:, c], truth == c, weights) for name, score in made.items()}
            for c in events
        ]
        found.append({name: np.mean([figures[name] for figures in each], axis=0) for name in each[0]})
    return {name: np.mean([figures[name] for figures in found], axis=0) for name in found[0]}


def _area_alone(cases: Cases, name: str, folds: list[tuple[Mask, Mask, models.Folds]]) -> float:
    """The best AUC of a value of the target by one field alone, out of fold. folds: learnt, judged, inner ones."""
    classes = len(cases.classes)
    table, predicted = cases.facts[[name]], np.zeros((len(cases), classes))
    for learnt, judged, inner in folds:
        model = models.fitted(table[learnt], cases.truth[learnt], classes, 0, inner)
        predicted[judged] = models.predicted(model, table[judged], classes)
    ones = np.ones((1, len(cases)))
    return max(float(scores.auc(predicted[:, c], cases.truth == c, ones)[0]) for c in range(classes))
