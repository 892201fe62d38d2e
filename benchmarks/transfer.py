"""The last experiment of Zhong et al. 2021, on covid-chestxray.

``make transfer`` writes the table of docs/how-to/transfer.md.

Trains an encoder without that data set (some minutes on two cores, unless runs/nih is there), indexes it, and asks for
survival, ICU and intubation, in folds by patient and with each hospital left out in turn.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cxrsearch.statistics import Figure

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "transfer.md"
BEGIN, END = "<!-- table: make transfer -->\n", "<!-- end -->\n"
TARGETS = ("outcome", "icu", "intubated")
PROTOCOLS = {"five folds by patient, drawn three times": [], "one hospital left out at a time": ["--leave-out", "site"]}
COLUMNS = ("AUC", "AUPRC", "Brier", "slope", "ECE")


def main() -> None:
    if not (ROOT / "runs" / "nih" / "model").is_dir():
        _run("train", "trainer/configs/nih.toml", "--out", "runs/nih")
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CXRSEARCH_KEY_FILE"] = f"{folder}/key"
        index = f"{folder}/index"
        root = "../shared/data/covid-chestxray"
        _run("index", "covid-chestxray", "--root", root, "--index", index, "--model", "runs/nih/model")
        for target in TARGETS:
            for words, options in PROTOCOLS.items():
                found = json.loads(_run("transfer", "--index", index, "--target", target, *options, "--format", "json"))
                parts.append(_table(found, words))
    head, rest = PAGE.read_text("utf-8").split(BEGIN)
    today = f"Written by `make transfer` on {datetime.date.today()}, seed 0, {os.cpu_count()} CPU cores.\n\n"
    PAGE.write_text(head + BEGIN + today + "\n".join(parts) + END + rest.split(END)[1], "utf-8")


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "cxrsearch", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def _table(found: dict[str, Any], protocol: str) -> str:
    counts = "; ".join(f"{name}: {n['images']} images of {n['patients']}" for name, n in found["classes"].items())
    lines = [
        f"### {found['target']}, {protocol}",
        "",
        f"{found['images']} images of {found['patients']} patients ({counts} patients).",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    rows = {**found["models"], "both minus clinical facts": found["both_minus_clinical_facts"]}
    lines += [f"| {name} | {' | '.join(_cell(figures.get(c)) for c in COLUMNS)} |" for name, figures in rows.items()]
    return "\n".join(lines) + "\n\n"


def _cell(figure: dict[str, float] | None) -> str:
    return "" if figure is None else Figure(**figure).written()


if __name__ == "__main__":
    main()
