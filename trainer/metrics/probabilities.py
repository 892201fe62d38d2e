"""How good predicted probabilities or numbers are, for many bootstrap weightings at once.

Every function takes ``weights`` (rounds, N), the times each case was drawn (cxrsearch/statistics.py), and gives
(rounds,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cxrsearch.statistics import Floats, ratio

_NEWTON_STEPS = 25


def auc(score: Floats, positive: NDArray[np.bool_], weights: Floats, parts: NDArray[np.int64] | None = None) -> Floats:
    """Area under the ROC curve, ties counted half: the part of pairs that are in the right order.

    parts: (N,), the fold of each case; only pairs of one fold are then compared. Pairs across folds are scored by
    different models, and a fold with more events leaves fewer to learn from: pooled, a model that knows
    nothing falls below one half, and far below when hospitals are left out (Airola et al., Computational Statistics
    and Data Analysis 2011).
    """
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for part in (None,) if parts is None else np.unique(parts):
        mine = slice(None) if part is None else parts == part
        mass, event = weights[:, mine], positive[mine]
        order, edges = _tied(score[mine])
        yes = np.add.reduceat(mass[:, order] * event[order], edges, axis=1)
        no = np.add.reduceat(mass[:, order] * ~event[order], edges, axis=1)
        right += (yes * (np.cumsum(no, axis=1) - no / 2)).sum(axis=1)
        pairs += yes.sum(axis=1) * no.sum(axis=1)
    return ratio(right, pairs)


def auprc(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Average precision: the area under the precision-recall curve, in steps."""
    order, edges = _tied(-score)
    yes = np.cumsum(np.add.reduceat(weights[:, order] * positive[order], edges, axis=1), axis=1)
    everyone = np.cumsum(np.add.reduceat(weights[:, order], edges, axis=1), axis=1)
    gained = np.diff(yes, axis=1, prepend=0)
    precision = np.divide(yes, everyone, out=np.zeros_like(yes), where=everyone > 0)
    return ratio((gained * precision).sum(axis=1), yes[:, -1])


def brier(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    return ratio(weights @ (score - positive) ** 2, weights.sum(axis=1))


def calibration_slope(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Slope of the logistic regression of the outcome on the logit of its probability (Cox 1958): 1 where
    probabilities are right, below it where they are too extreme. NaN where a resample has no finite one."""
    logit = np.log(np.clip(score, 1e-6, 1 - 1e-6) / np.clip(1 - score, 1e-6, 1 - 1e-6))
    beta = np.zeros((len(weights), 2))
    design = np.stack([np.ones_like(logit), logit], axis=1)
    pairs = design[:, :, None] * design[:, None, :]
    for _ in range(_NEWTON_STEPS):
        predicted = 1 / (1 + np.exp(-np.clip(beta @ design.T, -30, 30)))
        gradient = (weights * (positive - predicted)) @ design
        curvature = np.einsum("rn,nij->rij", weights * predicted * (1 - predicted), pairs) + 1e-9 * np.eye(2)
        beta += np.clip(np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0], -2, 2)
    slope: Floats = beta[:, 1]
    return np.where(np.abs(slope) < 50, slope, np.nan)


def pearson(score: Floats, truth: Floats, weights: Floats) -> Floats:
    total = weights.sum(axis=1)
    mean_score, mean_truth = (weights @ column / total for column in (score, truth))
    both = weights @ (score * truth) / total - mean_score * mean_truth
    spread = (weights @ score**2 / total - mean_score**2) * (weights @ truth**2 / total - mean_truth**2)
    return ratio(both, np.sqrt(np.maximum(spread, 0)))


def r2(score: Floats, truth: Floats, weights: Floats) -> Floats:
    """Share of the variance that is explained; below zero where the mean is a better guess."""
    total = weights.sum(axis=1)
    variance = weights @ truth**2 / total - (weights @ truth / total) ** 2
    return 1 - ratio(weights @ (score - truth) ** 2 / total, variance)


def mae(score: Floats, truth: Floats, weights: Floats) -> Floats:
    return ratio(weights @ np.abs(score - truth), weights.sum(axis=1))


def _tied(score: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of the scores, ascending, and where in it each group of equal ones begins."""
    order = np.argsort(score, kind="stable")
    place = rankdata(score[order], method="dense") - 1
    return order, np.flatnonzero(np.diff(place, prepend=-1))
