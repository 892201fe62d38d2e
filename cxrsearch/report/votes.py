"""Votes and calibrations as rows and sentences."""

from __future__ import annotations

from typing import Any

from cxrsearch.report.rows import text_of
from cxrsearch.statistics import Figure
from cxrsearch.voting.calibration import Calibration
from cxrsearch.voting.vote import Share, Vote

VOTE_COLUMNS = ["value", "probability", "95 % interval", "likely", "patients", "weight", "in the cohort"]
CALIBRATION_COLUMNS = [
    "field",
    "Brier",
    "Brier of the base rate",
    "gain",
    "ECE",
    "coverage",
    "likely values",
    "patients",
]


def vote_rows(vote: Vote) -> list[dict[str, Any]]:
    """As they are read by people: values for which nobody votes are one row, empty cells have nothing to say."""
    silent = [share for share in vote.shares if not share.patients + share.unknown and not share.likely]
    rows: list[dict[str, Any]] = [
        {
            "value": text_of(share.value),
            "probability": None if share.probability is None else f"{share.probability:.0%}",
            "95 % interval": _interval(share),
            "likely": share.likely,
            "patients": share.patients if not share.unknown else f"{share.patients} + {share.unknown} unknown",
            "weight": f"{share.weight:.0%}",
            "in the cohort": f"{share.base:.0%}",
        }
        for share in vote.shares
        if share not in silent
    ]
    if silent:
        base = sum(share.base for share in silent)
        rows.append({"value": f"({len(silent)} more)", "patients": 0, "in the cohort": f"{base:.0%}"})
    return rows


def _interval(share: Share) -> str | None:
    if share.probability is None or share.low is None or share.high is None:
        return None
    return Figure(share.probability, share.low, share.high).interval(".0%")


def vote_words(vote: Vote, calibration: Calibration | None) -> list[str]:
    """What has to be said beside the rows."""
    unknown = f" and {vote.unknown} images of unknown patients" if vote.unknown else ""
    lines = [
        f"{vote.patients} patients{unknown} vote;"
        f" {text_of(vote.field)} is known of {vote.known:.0%} of the cohort's images"
    ]
    if vote.abstains:
        return [*lines, *(f"no probability: {why}" for why in vote.abstains)]
    own = calibration.fields[vote.field] if calibration is not None else None
    if own is not None and calibration is not None:
        likely = ", ".join(text_of(share.value) for share in vote.shares if share.likely)
        lines.append(f"likely at {own.coverage:.0%}: {likely}")
        brier, base = own.figures["Brier"].value, own.figures["Brier of the base rate"].value
        how = "better than" if own.useful else "not shown to be better than"
        held_out = f"on {own.patients[2]} patients of the index held out, {how} the base rate alone"
        lines.append(f"{held_out} (Brier {brier:.3f}, {base:.3f}); coverage {own.figures['coverage'].value:.0%}")
        if calibration.learnt_from:
            datasets = ", ".join(map(text_of, calibration.learnt_from))
            lines.append(f"the encoder learnt from {datasets}, so this looks better than it is")
    return lines


def calibration_rows(calibration: Calibration) -> list[dict[str, Any]]:
    return [
        {"field": name, **dict(field.figures), "patients": field.patients[2]}
        for name, field in calibration.fields.items()
    ]


def written(row: dict[str, Any]) -> dict[str, Any]:
    """Figures with their intervals, as text."""
    return {name: value.written() if isinstance(value, Figure) else value for name, value in row.items()}


def calibration_words(calibration: Calibration) -> list[str]:
    lines = [
        f"calibrated on {calibration.made} with {calibration.images} images, seed {calibration.seed}; figures are of"
        " patients held out",
        f"novelty: 95 % of the index's patients have another at {calibration.novelty:.3f} or nearer",
    ]
    lines += [f"not calibrated: {text_of(name)}: {why}" for name, why in calibration.refused.items()]
    if calibration.learnt_from:
        lines.append(
            f"the encoder learnt from {', '.join(map(text_of, calibration.learnt_from))}, which this index holds: these"
            " figures are better than new patients will give"
        )
    return lines
