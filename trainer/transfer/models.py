"""The models that transfer compares: scikit-learn pipelines, their strength chosen on inner folds by patient."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from trainer.metrics.neighbours import mean_of_nearest

Floats = NDArray[np.float64]
# Of each fold, the places of the cases that are learnt from and of those that are judged.
Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]

INNER_FOLDS = 4
NEIGHBOURS = 10
# A value of a word that fewer cases have is one of "the rare ones".
_RARE = 5
_STRENGTHS = tuple(10.0**power for power in (-4, -3, -2, -1, 0, 1))
# How much the embedding counts beside a clinical field, chosen with the strength.
_IMAGE_WEIGHTS = (0.1, 0.3, 1.0)


def frame(vectors: NDArray[np.float32] | None, facts: pd.DataFrame | None) -> pd.DataFrame:
    """One table of what a model may use: embedding dimensions as e0, e1, ... beside the facts."""
    parts = [] if facts is None else [facts.reset_index(drop=True)]
    if vectors is not None:
        parts.insert(0, pd.DataFrame(vectors, columns=[f"e{n}" for n in range(vectors.shape[1])]))
    return pd.concat(parts, axis=1)


def inner_folds(truth: Floats, owners: NDArray[np.str_], classes: int, seed: int) -> Folds:
    """The folds by patient on which ``fitted`` chooses a strength: of each, the places learnt from and those judged.

    They depend on no table, and take longer to draw than a small model to fit: draw them once for all tables of a fold.
    """
    kind = StratifiedGroupKFold if classes else GroupKFold
    folds = kind(_inner_folds(truth, owners, classes), shuffle=True, random_state=seed)
    return list(folds.split(truth, truth, owners))


def fitted(table: pd.DataFrame, truth: Floats, classes: int, dimensions: int, folds: Folds) -> Pipeline:
    """Regularised logistic regression, or ridge regression where ``classes`` is 0.

    table: as ``frame`` gives it, the first ``dimensions`` columns of it an embedding. folds: as ``inner_folds`` does.
    """
    embedded = list(table.columns[:dimensions])
    rest = list(table.columns[dimensions:])
    numbers = [name for name in rest if table[name].dtype.kind == "f"]
    words = [name for name in rest if name not in numbers]
    blocks: list[tuple[str, Any, list[str]]] = [
        ("image", StandardScaler(), embedded),
        (
            "numbers",
            make_pipeline(
                SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
            ),
            numbers,
        ),
        ("words", OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=_RARE, sparse_output=False), words),
    ]
    used = [block for block in blocks if block[2]]
    if classes:
        model, score, grid = LogisticRegression(max_iter=2000), "neg_log_loss", {"C": _STRENGTHS}
    else:
        model, score, grid = (
            Ridge(),
            "neg_mean_squared_error",
            {"alpha": tuple(1 / strength for strength in _STRENGTHS)},
        )
    best: tuple[float, Pipeline] | None = None
    for weight in _IMAGE_WEIGHTS if embedded and rest else (1.0,):
        # Scaled and imputed on all that is learnt from, once: the outer fold is what judges.
        columns = ColumnTransformer(used, transformer_weights={"image": weight})
        search = GridSearchCV(model, grid, scoring=score, cv=folds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class that an inner fold happens to lack: that strength scores NaN
            search.fit(columns.fit_transform(table), truth)
        if best is None or search.best_score_ > best[0]:
            best = float(search.best_score_), Pipeline([("columns", columns), ("model", search.best_estimator_)])
    assert best is not None
    return best[1]


def predicted(model: Pipeline, table: pd.DataFrame, classes: int) -> Floats:
    """(N, max(classes, 1)): probabilities of every class, or the number; a class the model never saw has 0."""
    if not classes:
        return np.asarray(model.predict(table), dtype=np.float64)[:, None]
    found = np.zeros((len(table), classes))
    found[:, model.classes_.astype(int)] = model.predict_proba(table)
    return found


def neighbours_vote(known: NDArray[np.float32], truth: Floats, queries: NDArray[np.float32], classes: int) -> Floats:
    """(N, max(classes, 1)): what the ten most similar known cases say, weighted by similarity."""
    values = np.eye(classes)[truth.astype(int)] if classes else truth[:, None]
    return mean_of_nearest(queries.astype(np.float64) @ known.astype(np.float64).T, values, NEIGHBOURS)


def _inner_folds(truth: Floats, owners: NDArray[np.str_], classes: int) -> int:
    people = len(set(owners.tolist()))
    rarest = min(np.unique(truth, return_counts=True)[1]) if classes else people
    return max(2, min(INNER_FOLDS, people, int(rarest)))
