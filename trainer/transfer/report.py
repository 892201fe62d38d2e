"""A transfer -> rows of a table, JSON, one HTML page, and the fitted model as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from cxrsearch import __version__, files
from cxrsearch.imaging.canonical import canonical
from cxrsearch.report import page
from cxrsearch.retrieval.prediction import PREDICTION_FORMAT
from cxrsearch.store.contract import IndexFacts
from cxrsearch.store.images import StoredImages
from trainer import plots
from trainer.transfer import models
from trainer.transfer.cases import Cases
from trainer.transfer.transfer import BOTH, CLINICAL, IMAGE, VOTE, Transfer

MODELS = (CLINICAL, IMAGE, BOTH, VOTE)
# Cases shown that were got most wrong, and the size at which their pictures are read.
_WRONG, _PIXELS = 12, 256


def rows(found: Transfer) -> list[dict[str, Any]]:
    """A row for each model and floor, figures by name; last, what the image adds to the clinical facts."""
    table = [{"model": name, **figures} for name, figures in found.figures.items()]
    return [*table, {"model": "both minus clinical facts", **found.gain}] if found.gain else table


def describe(found: Transfer) -> dict[str, Any]:
    """The cohort in numbers."""
    cases, judged = found.cases, found.judged
    truth, owners = cases.truth[judged], cases.owners[judged]
    described: dict[str, Any] = {
        "target": cases.target,
        "protocol": found.protocol,
        "images": len(truth),
        "patients": len(set(owners.tolist())),
        "inputs": list(map(str, cases.facts.columns)),
        "refused": cases.refused,
    }
    if cases.classes:
        described["classes"] = {
            name: {"images": int((truth == n).sum()), "patients": len(set(owners[truth == n].tolist()))}
            for n, name in enumerate(cases.classes)
        }
        described["base_rate"] = {name: float((truth == n).mean()) for n, name in enumerate(cases.classes)}
    else:
        described["mean"], described["deviation"] = float(truth.mean()), float(truth.std())
    return described


def as_json(found: Transfer) -> dict[str, Any]:
    return {
        **describe(found),
        "models": {n: {m: asdict(f) for m, f in figures.items()} for n, figures in found.figures.items()},
        "both_minus_clinical_facts": {metric: asdict(figure) for metric, figure in found.gain.items()},
    }


def write(path: Path, found: Transfer, images: StoredImages, command: str, seed: int) -> None:
    """The page; pictures of the cases that were got most wrong where the index has any."""
    cases = found.cases
    mean = {name: np.nanmean(one[:, found.judged], axis=0) for name, one in found.predicted.items() if name in MODELS}
    truth = cases.truth[found.judged]
    columns = list(next(iter(found.figures.values())))
    page.write(
        path,
        "transfer",
        title=f"Transfer: {cases.target}",
        facts=describe(found),
        command=command,
        seed=seed,
        columns=columns,
        rows=[{"model": row["model"], "figures": [row.get(name) for name in columns]} for row in rows(found)],
        roc=page.png_uri(plots.roc({n: one[:, 1] for n, one in mean.items()}, truth == 1)) if cases.binary else None,
        calibration=page.png_uri(plots.calibration({n: one[:, 1] for n, one in mean.items()}, truth == 1))
        if cases.binary
        else None,
        coefficients=_coefficients(cases, seed),
        wrong=_wrong(found, images),
        best=BOTH if BOTH in mean else IMAGE,
    )


def save(path: Path, found: Transfer, facts: IndexFacts, command: str, seed: int) -> None:
    """Fit the embedding's model on every case and write it for ``cxrsearch search --predict``.

    The clinical facts of a new image are not known to a search, so the model is of the image alone.
    """
    cases, dimensions = found.cases, found.cases.vectors.shape[1]
    inner = models.inner_folds(cases.truth, cases.owners, len(cases.classes), seed)
    model = models.fitted(models.frame(cases.vectors, None), cases.truth, len(cases.classes), dimensions, inner)
    scaler, last = model.named_steps["columns"].named_transformers_["image"], model.named_steps["model"]
    written = {
        "format": PREDICTION_FORMAT,
        "target": cases.target,
        "classes": list(cases.classes),
        "fingerprint": facts.fingerprint,
        "model": facts.model,
        "mean": scaler.mean_.tolist(),
        "scale": scaler.scale_.tolist(),
        "coefficients": np.atleast_2d(last.coef_).tolist(),
        "intercept": np.atleast_1d(last.intercept_).tolist(),
        "card": {
            **describe(found),
            "command": command,
            "seed": seed,
            "version": __version__,
            "figures": {metric: asdict(figure) for metric, figure in found.figures[IMAGE].items()},
            "use": "research: not for any decision about a patient",
        },
    }
    files.write(path, json.dumps(written, indent=1, ensure_ascii=False) + "\n")


def _coefficients(cases: Cases, seed: int) -> list[dict[str, Any]]:
    """Of the model of clinical facts alone, fitted on every case; in standard deviations for numbers."""
    if not len(cases.facts.columns) or (cases.classes and not cases.binary):
        return []
    table = models.frame(None, cases.facts)
    inner = models.inner_folds(cases.truth, cases.owners, len(cases.classes), seed)
    model: Pipeline = models.fitted(table, cases.truth, len(cases.classes), 0, inner)
    names = model.named_steps["columns"].get_feature_names_out()
    weights = np.ravel(model.named_steps["model"].coef_)
    order = np.argsort(-np.abs(weights))
    plain = [str(name).split("__", 1)[1].replace("infrequent_sklearn", "(rare ones)") for name in names]
    return [{"name": plain[n].replace("missingindicator_", "missing: "), "value": float(weights[n])} for n in order]


def _wrong(found: Transfer, images: StoredImages) -> list[dict[str, Any]]:
    cases = found.cases
    name = BOTH if BOTH in found.predicted else IMAGE
    predicted = np.nanmean(found.predicted[name][:, found.judged], axis=0)
    truth, numbers = cases.truth[found.judged], np.flatnonzero(found.judged)
    if cases.classes:
        sure = predicted[np.arange(len(truth)), truth.astype(int)]
        error = 1 - sure
        words = [f"{cases.classes[int(t)]}, given {p:.0%}" for t, p in zip(truth, sure, strict=True)]
    else:
        error = np.abs(predicted[:, 0] - truth)
        words = [f"{t:.3g}; predicted {p:.3g}" for t, p in zip(truth, predicted[:, 0], strict=True)]
    shown = np.argsort(-error, kind="stable")[:_WRONG]
    return [{"picture": picture(cases, int(numbers[n]), images), "words": words[n]} for n in shown]


def picture(cases: Cases, number: int, images: StoredImages) -> str | None:
    """The picture of a case, None where neither its original nor a thumbnail is here."""
    found = images.read(cases.ids[number], cases.payloads[number])
    if found is None:
        return None
    return page.jpeg_uri(np.rint(canonical(found.radiograph, _PIXELS) * 255).astype(np.uint8))
