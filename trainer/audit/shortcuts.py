"""How well a label can be guessed without looking at lungs: from an image's shape, file size, border or thumbnail.

A classifier for each, judged in folds that keep patients apart. What it can tell, a network can learn instead of
the disease (Zech et al., PLoS Medicine 2018; DeGrave et al., Nature Machine Intelligence 2021, arXiv 2005.10148).
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.data.images import Images
from trainer.evaluation import baselines

FOLDS = 5
# Values that fewer images have are left out: no fold could learn them.
SMALLEST_CLASS = 20
# Area under the ROC curve of one value against the others from which a shortcut is one.
RISK_ABOVE = 0.75
# Fewer images than this clear nothing.
FEWEST_IMAGES = 100
_COMPONENTS = 40


@dataclass(frozen=True)
class Shortcut:
    """source: what was looked at; target: what was guessed from it, of ``values`` values over ``images`` images.

    accuracy: part that is right; majority: what saying the most common value always gives; balanced: mean of the
    values' sensitivities (chance: 1 / values). best: the value that is guessed best, of ``positives`` images, and auc:
    how well, against the rest.
    """

    source: str
    target: str
    values: int
    images: int
    accuracy: float
    majority: float
    balanced: float
    best: str
    auc: float
    positives: int

    @property
    def found(self) -> bool:
        return self.auc > RISK_ABOVE

    @property
    def ruled_out(self) -> bool:
        """Whether there were enough images to see it: that it is not there is beyond what chance could hide."""
        return self.images >= FEWEST_IMAGES and self.auc + 1.96 * self._deviation() < RISK_ABOVE

    def _deviation(self) -> float:
        """Of the area, by Hanley and McNeil, Radiology 143:29 (1982)."""
        area, yes, no = self.auc, self.positives, self.images - self.positives
        both, neither = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area) + (yes - 1) * (both - area**2) + (no - 1) * (neither - area**2)
        return float((variance / (yes * no)) ** 0.5)


def shortcuts(images: Images, target: str, values: list[str | None], seed: int = 0) -> list[Shortcut]:
    """Every source's power to tell ``values`` (N, None where unknown); empty where there are not two to tell apart."""
    counts = Counter(value for value in values if value is not None)
    enough = {value for value, number in counts.items() if number >= SMALLEST_CLASS}
    chosen = np.flatnonzero([value in enough for value in values])
    if len(enough) < 2:
        return []
    part = images.part(chosen)
    truth = np.array([str(values[n]) for n in chosen])
    if len(set(part.owners.tolist())) < FOLDS:
        return []
    sources = {
        "image shape": _shape(part),
        "file size": np.log(part.file_bytes.astype(np.float64))[:, None],
        "border (outer 1/16)": baselines.borders(part).astype(np.float64),
        "32 x 32 thumbnail": baselines.thumbnails(part).astype(np.float64),
    }
    majority = max(Counter(truth.tolist()).values()) / len(truth)
    found = []
    for source, features in sources.items():
        scores, names = _predicted(features, truth, part.owners, seed), np.unique(truth)
        guessed = names[scores.argmax(axis=1)]
        areas = [float(roc_auc_score(truth == name, scores[:, n])) for n, name in enumerate(names)]
        best = int(np.argmax(areas))
        found.append(
            Shortcut(
                source,
                target,
                len(enough),
                len(truth),
                float((guessed == truth).mean()),
                majority,
                float(balanced_accuracy_score(truth, guessed)),
                str(names[best]),
                areas[best],
                int((truth == names[best]).sum()),
            )
        )
    return found


def _shape(images: Images) -> NDArray[np.float64]:
    height, width = images.shapes.astype(np.float64).T
    return np.stack([height, width, height / width], axis=1)


def _predicted(
    features: NDArray[np.float64], truth: NDArray[np.str_], owners: NDArray[np.str_], seed: int
) -> NDArray[np.float64]:
    """(N, values) probabilities by a classifier that saw no image of the patient; values in sorted order."""
    if features.shape[1] <= 3:
        model = RandomForestClassifier(100, min_samples_leaf=5, class_weight="balanced", random_state=seed)
    else:
        model = make_pipeline(
            StandardScaler(),
            PCA(min(_COMPONENTS, len(truth) // FOLDS, features.shape[1]), random_state=seed),
            LogisticRegression(class_weight="balanced", max_iter=2000),
        )
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that a fold happens to lack
        predicted: NDArray[np.float64] = cross_val_predict(
            model, features, truth, groups=owners, cv=splitter, method="predict_proba"
        )
    return predicted
