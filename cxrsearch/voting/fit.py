"""Learning on an index how its neighbours' vote becomes a probability, and how far away is too far.

The patients who have a field are dealt into three parts, one image each: the first teaches the kernel (least log loss
over a grid), the second sets the threshold of the conformal set (split conformal: Vovk, Gammerman and Shafer,
"Algorithmic learning in a random world", 2005; the score is one less the probability of the true value), the third is
what the figures are measured on. Nothing is fitted again afterwards. Every patient is asked as a search asks: own
images left out, all others may vote.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Expression, Missing, Not
from cxrsearch.clinical.fields import Field, FieldType, Scalar, values_of
from cxrsearch.cohort import counts
from cxrsearch.errors import InputError
from cxrsearch.statistics import Figure, Floats, ece, figure, resampled
from cxrsearch.store.contract import Point, VectorStore
from cxrsearch.voting.calibration import COVERAGE, Calibration, FieldCalibration, Kernel, likely
from cxrsearch.voting.nearness import others
from cxrsearch.voting.vote import VOTERS, ballot, in_parts, voters

# A third of these patients sets the threshold, and a third measures: with fewer, neither means anything.
FEWEST_PATIENTS = 60
# Each of at least two values has to be known of so many patients; rarer ones stay, as they are in the cohort.
FEWEST_OF_A_VALUE = 10
MOST_VALUES = 30
# More patients than this make no figure better that anyone would read.
MOST_PATIENTS = 1500
# Part of the index's own patients that would be called far from everything.
_FAR = 0.05
# Reach, in medians of the voters' distance 1 - similarity.
_REACHES = (0.5, 1.0, 2.0, math.inf)
_PRIORS = (1.0, 3.0, 10.0)
_SHARPNESSES = (0.75, 1.0, 1.5)
_ROUNDING = 1e-9
# Components of an embedding that put images in order.
_ORDERED = 4
_RESAMPLES = 1000


@dataclass(frozen=True)
class _Answers:
    """N patients' votes over C values. scores (N, V), minus infinity where there were fewer voters; says (N, V, C):
    what each voter says, in parts; truth (N, C): the patient's own values, in parts; base (C,)."""

    scores: Floats
    says: Floats
    truth: Floats
    base: Floats

    def part(self, which: NDArray[np.int64]) -> _Answers:
        return _Answers(self.scores[which], self.says[which], self.truth[which], self.base)

    def probabilities(self, kernel: Kernel) -> Floats:
        """(N, C), rows add up to one."""
        return kernel.probabilities(np.einsum("nv,nvc->nc", kernel.weights(self.scores), self.says), self.base)


def calibrate(
    store: VectorStore, trained_on: Sequence[str], seed: int = 0, progress: Callable[[str], None] = lambda name: None
) -> Calibration:
    """Ask the index about its own patients. trained_on: names of the datasets that the encoder learnt from.

    progress: told what is being worked on. Raises InputError for an index of fewer than FEWEST_PATIENTS patients.
    """
    rng = np.random.default_rng(seed)
    progress("novelty")
    everyone = _one_each(store, None, [], rng)
    if len(everyone) < FEWEST_PATIENTS:
        raise InputError(f"only {len(everyone)} patients are in this index; {FEWEST_PATIENTS} are needed to calibrate")
    nearest = [hit.score for point in everyone for hit in store.query(_vector(point), 1, others(point))]
    fields: dict[str, FieldCalibration] = {}
    refused: dict[str, str] = {}
    for field in store.facts.fields.values():
        if field.type in (FieldType.KEYWORD, FieldType.BOOLEAN):
            progress(field.name)
            found = _of_field(store, field, seed)
            if isinstance(found, str):
                refused[field.name] = found
            else:
                fields[field.name] = found
    learnt_from = tuple(sorted(set(trained_on) & set(store.facts.datasets)))
    novelty = float(np.quantile(nearest, _FAR))
    return Calibration(datetime.date.today().isoformat(), store.count(), seed, novelty, fields, refused, learnt_from)


def _of_field(store: VectorStore, field: Field, seed: int) -> FieldCalibration | str:
    """The calibration, or why there is none."""
    base = counts.shares(store, field.name)
    if len(base) > MOST_VALUES:
        return f"has {len(base)} values; more than {MOST_VALUES} are not calibrated"
    rng = np.random.default_rng(seed)
    patients = _one_each(store, Not(Missing(field.name)), [field.name], rng)
    if len(patients) < FEWEST_PATIENTS:
        return f"known of {len(patients)} patients; {FEWEST_PATIENTS} are needed"
    known = [value for point in patients for value in set(values_of(point.payload, field.name))]
    if sum(known.count(value) >= FEWEST_OF_A_VALUE for value in base) < 2:
        return f"fewer than two of its values are known of {FEWEST_OF_A_VALUE} patients"
    answers = _answers(store, field.name, list(base), np.array(list(base.values())), patients)
    teaching, setting, measuring = np.array_split(np.arange(len(patients)), 3)
    kernel = _learn(answers.part(teaching))
    truth = answers.part(setting)
    of_truth = np.sort((truth.probabilities(kernel) * _one_hot(truth.truth, rng)).sum(axis=1))[::-1]
    rank = min(len(of_truth) - 1, math.ceil((len(of_truth) + 1) * COVERAGE) - 1)
    # A hair lower: patients alike in every voter tie, and rounding must not put some of them below it.
    threshold = float(of_truth[rank]) * (1 - _ROUNDING)
    figures = _measure(answers.part(measuring), kernel, threshold, rng)
    return FieldCalibration(kernel, threshold, COVERAGE, (len(teaching), len(setting), len(measuring)), figures)


def _one_each(
    store: VectorStore, expression: Expression | None, fields: Sequence[str], rng: np.random.Generator
) -> list[Point]:
    """One image of each patient, in random order, at most MOST_PATIENTS; without their vectors until they are drawn.

    Drawn from an order of the images' embeddings: all else depends on the key, and the seed is to be enough.
    """
    needed = [*fields, "patient", "image_sha256", "picture"]
    by_patient: dict[str, list[tuple[list[float], str]]] = {}
    for point in store.scroll(expression, fields=["patient"], vectors=True):
        image = (_vector(point)[:_ORDERED].tolist(), point.id)
        by_patient.setdefault(str(point.payload.get("patient", point.id)), []).append(image)
    in_order = sorted(sorted(images) for images in by_patient.values())
    drawn = [images[int(rng.integers(len(images)))][1] for images in in_order]
    chosen = {drawn[i]: n for n, i in enumerate(rng.permutation(len(drawn))[:MOST_PATIENTS])}
    points = [p for p in store.scroll(expression, fields=needed, vectors=True) if p.id in chosen]
    return sorted(points, key=lambda point: chosen[point.id])


def _answers(
    store: VectorStore, field: str, values: Sequence[Scalar], base: Floats, patients: Sequence[Point]
) -> _Answers:
    scores = np.full((len(patients), VOTERS), -np.inf)
    says = np.zeros((len(patients), VOTERS, len(values)))
    for number, point in enumerate(patients):
        neighbours = voters(store, _vector(point), field, others(point))
        scores[number, : len(neighbours)], says[number, : len(neighbours)] = ballot(neighbours, values)
    truth = np.array([in_parts(values_of(point.payload, field), values) for point in patients])
    return _Answers(scores, says, truth, base)


def _learn(answers: _Answers) -> Kernel:
    """The kernel of least log loss."""
    far = float(np.median(1 - answers.scores[np.isfinite(answers.scores)])) if answers.scores.size else 1.0
    kernels = [
        Kernel(reach * max(far, 1e-6), prior, sharpness)
        for reach, prior, sharpness in product(_REACHES, _PRIORS, _SHARPNESSES)
    ]
    losses = [-(answers.truth * np.log(answers.probabilities(kernel) + 1e-12)).sum() for kernel in kernels]
    return kernels[int(np.argmin(losses))]


def _measure(answers: _Answers, kernel: Kernel, threshold: float, rng: np.random.Generator) -> dict[str, Figure]:
    probabilities = answers.probabilities(kernel)
    true = _one_hot(answers.truth, rng)
    among, best = likely(probabilities, threshold), probabilities.argmax(axis=1)
    of_vote, of_base = (((part - true) ** 2).sum(axis=1) for part in (probabilities, answers.base))
    per_patient = {
        "Brier": of_vote,
        "Brier of the base rate": of_base,
        "gain": of_base - of_vote,
        "coverage": (among & (true > 0)).any(axis=1),
        "likely values": among.sum(axis=1),
    }
    weights = resampled(np.arange(len(probabilities)).astype(str), _RESAMPLES, int(rng.integers(2**31)))
    series = {name: weights @ column / weights.sum(axis=1) for name, column in per_patient.items()}
    series["ECE"] = ece(probabilities.max(axis=1), true[np.arange(len(probabilities)), best] > 0, weights)
    return {name: figure(one) for name, one in series.items()}


def _one_hot(truth: Floats, rng: np.random.Generator) -> Floats:
    """One value a patient: of several, one at random."""
    drawn: NDArray[np.int64] = (truth * rng.random(truth.shape)).argmax(axis=1)
    return np.asarray(np.eye(truth.shape[1])[drawn])


def _vector(point: Point) -> NDArray[np.float32]:
    assert point.vector is not None
    return point.vector
