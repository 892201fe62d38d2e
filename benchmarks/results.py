"""The published figures: darkcovidnet in five folds, by patient and at random, with baselines. ``make results``.

Trains ten networks (about an hour on two cores), unless their folders under runs/ are there already, and writes
docs/reference/results.md.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cxrsearch.statistics import Figure

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "results.md"
CONFIG = "trainer/configs/darkcovidnet.toml"
CONTRADICTED = ROOT.parent / "shared" / "data" / "labels" / "read_normal_by_rsna.csv"
RUNS = {"by-patient": [], "by-image": ["--by", "image"]}
COLUMNS = {
    "vote_accuracy": "vote",
    "precision_at_1": "P@1",
    "precision_at_10": "P@10",
    "map_at_10": "mAP@10",
    "r_precision": "R-prec.",
    "map_at_r": "MAP@R",
    "macro_auc": "AUC",
}
# What was to be reached: its words, folds, metric, what was known beforehand, target.
TARGETS = [
    ("vote, random folds", "by-image", "vote_accuracy", "0.8702 (published CNN)", 0.90),
    ("vote, patient-grouped folds", "by-patient", "vote_accuracy", "0.750 (frozen trunk)", 0.86),
    ("P@1, patient-grouped folds", "by-patient", "precision_at_1", "0.688 (frozen trunk)", 0.80),
    ("MAP@R, patient-grouped folds", "by-patient", "map_at_r", "0.275 (frozen trunk)", 0.60),
]
GALLERIES = {"archive": "among the images that were learnt from", "unseen": "among the other unseen images"}


def main() -> None:
    found = {name: _evaluated(name, options) for name, options in RUNS.items()}
    PAGE.write_text(_page(found), "utf-8")
    print(f"wrote {PAGE}")


def _evaluated(name: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "cxrsearch", "evaluate", CONFIG, "--folds", "5", *options, "--out", f"runs/{name}"]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads((ROOT / "runs" / name / "evaluation.json").read_text("utf-8"))
    return found


def _page(found: dict[str, Any]) -> str:
    facts = found["by-patient"]
    lines = [
        "# Results on darkcovidnet",
        "",
        f"Written by `make results` from `{CONFIG}` (seed 0, {facts['hardware']}, {facts['day']}): five folds, three",
        f"classes, {facts['queries']} images of {facts['patients']} patients, from ImageNet weights. Value and 95 %",
        "interval by bootstrap over patients. What the columns mean: [evaluation](../concepts/evaluation.md).",
        "",
        f"Labels are as published: radiologists of the RSNA challenge read {_read_as_normal()} of the images labelled",
        "Pneumonia as normal, which no encoder can find to be both.",
        "",
        "## Against what was to be reached",
        "",
        "What was known beforehand and what was to be reached were given with the task, not measured here.",
        "",
        "| | known beforehand | to reach | archive | unseen |",
        "|---|---|---|---|---|",
    ]
    for words, run, metric, known, target in TARGETS:
        cells = [_cell(found[run]["galleries"][g]["the encoder"][metric]) for g in GALLERIES]
        lines.append(f"| {words} | {known} | {target:.2f} | {' | '.join(cells)} |")
    for run, title in (("by-patient", "Folds that keep patients apart"), ("by-image", "Folds drawn at random")):
        lines += ["", f"## {title}"]
        if found[run]["leakage"]:
            lines += ["", f"Leakage: {found[run]['leakage']}. For comparison with published figures only."]
        for gallery, words in GALLERIES.items():
            lines += ["", f"### Looked up {words}", "", f"| | {' | '.join(COLUMNS.values())} |", "|---" * 8 + "|"]
            for method, figures in found[run]["galleries"][gallery].items():
                cells = [_cell(figures[name]) if name in figures else "" for name in COLUMNS]
                lines.append(f"| {method} | {' | '.join(cells)} |")
        parts = [part["archive"]["vote_accuracy"] for part in found[run]["parts"]]
        lines += ["", "The encoder's vote in each fold: " + ", ".join(f"{part:.3f}" for part in parts) + "."]
    return "\n".join(lines) + "\n"


def _read_as_normal() -> int:
    names = csv.reader(CONTRADICTED.read_text("utf-8").splitlines())
    return sum(name.startswith("darkcovidnet/Pneumonia/") for name, *_ in names)


def _cell(figure: dict[str, float]) -> str:
    return Figure(**figure).written()


if __name__ == "__main__":
    main()
