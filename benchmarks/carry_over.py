"""What the encoder that ships is worth where nothing was learnt: part of ``make results``.

Searches a quarter of the patients of kermany among the others (nothing was learnt from it), compares
neighbours with Brixia zone scores, takes the held-out patients' figures from the model card, and writes
docs/reference/cxr-1.md. About a quarter of an hour on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cxrsearch.model_card import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "cxr-1.md"
ZONES = ",".join(f"zone_{letter}" for letter in "abcdef")
MODEL = ["--model", str(DEFAULT_MODEL.relative_to(ROOT))]
TRAINED = "cxrsearch train trainer/configs/cxr-1.toml --out runs/cxr-1"
EXTERNAL = ["--external", "kermany", "--root", "../shared/data/kermany", *MODEL, "--out", "runs/kermany"]
AGREEMENT = ["trainer/configs/brixia.toml", *MODEL, "--agreement", ZONES, "--out", "runs/brixia"]
COLUMNS = {"precision_at_1": "P@1", "map_at_r": "MAP@R", "vote_accuracy": "vote", "macro_auc": "AUC of the vote"}
FINDING_COLUMNS = {"auc": "AUC of the vote", "map": "mAP", "ndcg_at_10": "nDCG@10"}
SCORE_COLUMNS = {
    "rank_correlation": "rank correlation",
    "side_correlation": "of the sides' difference",
    "absolute_difference": "absolute difference (0 to 3)",
}


def main() -> None:
    external = _run(EXTERNAL, "runs/kermany/evaluation.json")
    scores = _run(AGREEMENT, "runs/brixia/agreement.json")
    PAGE.write_text(_page(external, scores), "utf-8")
    print(f"wrote {PAGE}")


def _run(arguments: list[str], result: str) -> dict[str, Any]:
    subprocess.run([sys.executable, "-m", "cxrsearch", "evaluate", *arguments], cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads((ROOT / result).read_text("utf-8"))
    return found


def _page(external: dict[str, Any], scores: dict[str, Any]) -> str:
    card = json.loads((DEFAULT_MODEL / "model.json").read_text("utf-8"))
    lines = [
        "# Results of cxr-1",
        "",
        f"Written by `make results` (seed 0, {external['hardware']}, {external['day']}). The encoder was learnt by",
        f"`{TRAINED}`. Value and 95 % interval by bootstrap over patients; the own patient is always left out.",
        "What the columns mean: [evaluation](../concepts/evaluation.md).",
        "",
        "## A hospital that nobody has seen",
        "",
        f"`cxrsearch evaluate {' '.join(EXTERNAL)}`",
        "",
        f"{external['queries']} images of {external['patients']} children are searched among the other three",
        "quarters of `kermany` (normal, bacterial, viral pneumonia). Nothing was learnt from it, and the configuration",
        "was fixed before its figures were seen; those of two encoders before it had been.",
        "",
        *_table(external["galleries"]["archive"], COLUMNS),
        "",
        "## Severity in six zones of the lungs",
        "",
        f"`cxrsearch evaluate {' '.join(AGREEMENT)}`",
        "",
        f"{scores['images']} images of {scores['patients']} patients with Brixia scores. No score was learnt from, but",
        "most of these images were, with their findings: the encoder's row flatters.",
        "",
        *_table(scores["methods"], SCORE_COLUMNS),
        "",
        "## Patients held out of learning",
        "",
        f"From the model card: {card['figures']['queries']} images of {card['figures']['patients']} patients, searched",
        "among the images that were learnt from; means over the findings. The 2,644 images of rsna-normal that no",
        "patient is known of were learnt from, and are of NIH patients: of these held-out ones too, perhaps.",
    ]
    for source, methods in card["figures"]["by source"].items():
        lines += ["", f"### {source}", "", *_table(methods, FINDING_COLUMNS)]
    return "\n".join(lines) + "\n"


def _table(methods: dict[str, Any], columns: dict[str, str]) -> list[str]:
    lines = [f"| | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for method, figures in methods.items():
        cells = [_cell(figures[name]) if name in figures else "" for name in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _cell(figure: dict[str, float] | list[float]) -> str:
    value, low, high = figure if isinstance(figure, list) else (figure["value"], figure["low"], figure["high"])
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
