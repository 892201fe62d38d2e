"""Neighbours -> what they say of a field: shares, a calibrated probability, or an abstention with its reasons.

The voters are the nearest images of the filtered cohort that have the field, one for each patient: a patient with ten
images is still one patient. A voter of similarity s weighs exp(-(1 - s) / reach). With n_v the weight for value v, n
their sum and b_v how common v is in the cohort,

    p_v  ~  b_v * ((n_v + prior * b_v) / ((n + prior) * b_v)) ** sharpness

so that no neighbours at all give the cohort's base rate, and a value counts by how much more often it is among the
neighbours than in the cohort. reach, prior and sharpness are learnt on the index itself (calibration.py, calibrate.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.expression import Expression, Missing, Not, both
from cxrsearch.clinical.fields import Field, FieldType, Scalar, values_of
from cxrsearch.cohort import counts
from cxrsearch.errors import UsageError
from cxrsearch.statistics import Floats, surprising, wilson
from cxrsearch.store.contract import Scored, VectorStore
from cxrsearch.voting.calibration import Calibration, FieldCalibration, Kernel, likely

# Patients who vote, and images looked through to find them.
VOTERS = 20
_LOOKED_THROUGH = 60
# Fewer patients than this say nothing of a probability.
FEWEST = 5
# Without a calibration: every voter counts alike, one of them is worth the base rate.
UNCALIBRATED = Kernel(reach=math.inf, prior=1.0, sharpness=1.0)


@dataclass(frozen=True)
class Voter:
    """A patient's nearest image: its similarity -1..1, its values of the field, its site where known. is_known: whose
    image it is; of unknown patients every picture votes, and some may be of one patient."""

    score: float
    values: tuple[Scalar, ...]
    site: str | None = None
    is_known: bool = True


@dataclass(frozen=True)
class Share:
    """One value. weight: its part of the voters' weight, 0..1; patients who vote for it, and unknown: images of unknown
    patients that do; base: how common it is among the cohort's images, 0..1.

    probability, with a 95 % interval low..high, and likely (in the conformal set): None without a calibration and where
    the vote abstains.
    """

    value: Scalar
    weight: float
    patients: int
    unknown: int
    base: float
    probability: float | None = None
    low: float | None = None
    high: float | None = None
    likely: bool | None = None


@dataclass(frozen=True)
class Vote:
    """shares: of every value of the cohort, the likeliest first. patients: who voted; unknown: images of unknown
    patients that did. known: the part of the cohort's images that have the field. abstains: why there is no
    probability. coverage: of the set of likely values, 0..1."""

    field: str
    shares: tuple[Share, ...]
    patients: int
    unknown: int
    known: float
    nearest: float | None
    abstains: tuple[str, ...]
    coverage: float | None


def check_field(field: Field) -> None:
    """Raises UsageError for a field whose values cannot be counted."""
    if field.type not in (FieldType.KEYWORD, FieldType.BOOLEAN):
        raise UsageError(f"--vote {field.name}: is of type {field.type}; a vote is on a keyword or a boolean field")


def voters(
    store: VectorStore, vector: NDArray[np.float32], field: str, expression: Expression | None = None
) -> list[Voter]:
    """The nearest patients whose image has the field, nearest first. ``vector``: (D,), of unit length."""
    found = store.query(vector, _LOOKED_THROUGH, both(Not(Missing(field)), expression))
    heard: set[str] = set()
    nearest = []
    for one in found:  # one voice for each patient, and for each picture, however often it is stored
        voices = {str(one.payload[name]) for name in ("patient", "picture") if name in one.payload}
        if heard.isdisjoint(voices):
            nearest.append(one)
        heard |= voices
    return [
        Voter(one.score, tuple(values_of(one.payload, field)), _site(one), "patient" in one.payload)
        for one in nearest[:VOTERS]
    ]


def count(
    store: VectorStore,
    vector: NDArray[np.float32],
    field: Field,
    calibration: Calibration | None,
    others: Expression | None = None,
    where: Expression | None = None,
    abstains: Sequence[str] = (),
    silent: bool = False,
) -> Vote:
    """The vote of those nearest to ``vector`` in the cohort that meets ``where``.

    others: what a voter has to meet beside (not the query's own patient). abstains: reasons of the query's own to give
    no probability; silent: nor any share. Raises UsageError for a field of another type
    than keyword or boolean.
    """
    check_field(field)
    neighbours = voters(store, vector, field.name, both(others, where))
    base = counts.shares(store, field.name, where)
    known = counts.known(store, field.name, where)
    own = calibration.fields.get(field.name) if calibration is not None else None
    sites = store.values("site", where) if _has_sites(store) else {}
    reasons = [*abstains, *_reasons(neighbours, calibration, own, field.name, sites)]
    kernel = own.kernel if own is not None else UNCALIBRATED
    scores, says = ballot(neighbours, list(base))
    weights, rates = kernel.weights(scores), np.array(list(base.values()))
    tally, probabilities = weights @ says, kernel.probabilities(weights @ says, rates)
    # How many equal voters these are worth (Kish), and what the prior counts for.
    effective = float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300)) + kernel.prior
    answers = own is not None and not reasons and len(base) > 0
    best = likely(probabilities, own.threshold) if own is not None and answers else None
    shares = []
    for number, value in enumerate(base):
        of_known = sum(bool(part) and voter.is_known for part, voter in zip(says[:, number], neighbours, strict=True))
        unknown = int((says[:, number] > 0).sum()) - of_known
        share = Share(value, float(tally[number] / (tally.sum() or 1.0)), of_known, unknown, base[value])
        if best is not None:
            low, high = wilson(float(probabilities[number]) * effective, effective)
            share = replace(
                share, probability=float(probabilities[number]), low=low, high=high, likely=bool(best[number])
            )
        shares.append(share)
    shares.sort(key=lambda one: (-(one.probability or 0.0), -one.weight, -one.base, str(one.value)))
    nearest = neighbours[0].score if neighbours else None
    coverage = own.coverage if own is not None and answers else None
    patients = sum(voter.is_known for voter in neighbours)
    unknown = len(neighbours) - patients
    return Vote(
        field.name, () if silent else tuple(shares), patients, unknown, known, nearest, tuple(reasons), coverage
    )


def ballot(neighbours: Sequence[Voter], values: Sequence[Scalar]) -> tuple[Floats, Floats]:
    """Similarities (V,) and what each voter says of C values, (V, C): a voter of several gives each an equal part."""
    scores = np.array([voter.score for voter in neighbours], dtype=np.float64)
    return scores, np.array([in_parts(voter.values, values) for voter in neighbours]).reshape(
        len(neighbours), len(values)
    )


def in_parts(own: Sequence[Scalar], values: Sequence[Scalar]) -> list[float]:
    """Of each value, the part of ``own`` that it is."""
    return [(value in own) / len(own) for value in values]


def _reasons(
    neighbours: Sequence[Voter],
    calibration: Calibration | None,
    own: FieldCalibration | None,
    field: str,
    sites: Mapping[Scalar, int],
) -> list[str]:
    """Why there is no probability. ``sites``: how many images of the cohort each has."""
    found = []
    if calibration is None:
        found.append("not calibrated: run cxrsearch calibrate on this index")
    elif own is None:
        why = calibration.refused.get(field, "it is no declared field, or came later; run cxrsearch calibrate again")
        found.append(f"not calibrated: {why}")
    if calibration is not None and neighbours and neighbours[0].score < calibration.novelty:
        found.append(
            f"neighbours are too far: the nearest is at {neighbours[0].score:.3f}, while 95 % of this index's own"
            f" patients have another patient at {calibration.novelty:.3f} or nearer"
        )
    if (patients := sum(voter.is_known for voter in neighbours)) < FEWEST:
        unknown = f" and {len(neighbours) - patients} images of unknown patients" if patients < len(neighbours) else ""
        found.append(f"too few neighbours: {patients} patients{unknown}, {FEWEST} patients are needed")
    elif len({voter.site for voter in neighbours}) == 1 and (site := neighbours[0].site) is not None and sites:
        share = sites[site] / sum(sites.values())
        if surprising(share, len(neighbours)):
            found.append(f"all neighbours are from one site ({site}), which has {share:.0%} of the cohort")
    return found


def _has_sites(store: VectorStore) -> bool:
    field = store.facts.fields.get("site")
    return field is not None and field.type is FieldType.KEYWORD


def _site(one: Scored) -> str | None:
    sites = values_of(one.payload, "site")
    return str(sites[0]) if sites else None
