"""What each part of the method carries over to a hospital that was left out of learning: ``make ablation``.

Every row changes one thing of the learning, learns without each source in turn, and is judged on that source searched
in itself, own patient left out; then without a quarter of the patients of NIH, who are searched among its others. The
figure is the mean over the findings of the AUC of the neighbours' vote. What ships is chosen by this table, and never
by kermany or anything that is judged in docs/reference/cxr-1.md: the patients held out for its figures are not in here.
What ships is measured on pictures as large as it is learnt from, and all rows on smaller ones, as a processor can.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Collection, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import Config
from trainer.data import splits
from trainer.data.images import Images
from trainer.data.training_set import load
from trainer.evaluation import baselines
from trainer.learning.embed import embed
from trainer.learning.fit import fit
from trainer.learning.imported import new_network
from trainer.learning.network import Network
from trainer.learning.start import begin_at_findings, go_back
from trainer.metrics.findings import retrieve_findings

ROOT = Path(__file__).parent.parent
DONE = ROOT / "runs" / "ablation.jsonl"
PAGE = ROOT / "docs" / "reference" / "ablation.md"
CONFIG = ROOT / "trainer" / "configs" / "cxr-1.toml"
PIXELS, SEED = (224, 128), 0
SHIPS = "taught"
# Name of a row -> what it changes of the learning of cxr-1.
VARIANTS: dict[str, dict[str, Any]] = {
    SHIPS: {},
    "taught without multi-similarity": {"objective": "cross-entropy"},
    "taught without distillation": {"distillation": 0.0},
    "the projection alone taught": {"frozen": 1.0},
    "mirrored half the time": {"mirror": True},
    "the whole trunk taught": {"frozen": 0.0},
    "the whole trunk taught at a tenth of the rate": {"frozen": 0.0, "trunk_rate": 0.1},
    "2 epochs without labels first": {"self_supervised_epochs": 2},
}
START = "as learning begins: ridge regression and principal components"
QUARTER = "quarter of NIH patients"
FIXED = {"32 x 32 thumbnails": baselines.thumbnails, "ImageNet trunk, frozen": baselines.frozen_trunk}
# Name of a row -> part that was left out -> area.
Rows = dict[str, dict[str, float]]
# Averaging weights with those that learning began with: Wortsman et al., Robust fine-tuning (CVPR 2022).
WAYS_BACK = {"half way back to the start": 0.5, "three quarters of the way back": 0.75}


def main() -> None:
    """Rows that runs/ablation.jsonl has already are kept: delete it to measure anew."""
    DONE.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in DONE.read_text("utf-8").splitlines()] if DONE.exists() else []
    tables: dict[int, Rows] = {pixels: {} for pixels in PIXELS}
    for row in known:
        tables[row["pixels"]][row["row"]] = row["areas"]
    for pixels, rows in tables.items():
        for name, areas in _missing(pixels, rows):
            rows[name] = areas
            with DONE.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"pixels": pixels, "row": name, "areas": areas}, ensure_ascii=False) + "\n")
            PAGE.write_text(_page(tables), "utf-8")  # at once: a row takes long, and the run may be stopped
            print(pixels, name, *(f"{area:.3f}" for area in areas.values()), sep="  ", file=sys.stderr, flush=True)


def _missing(pixels: int, rows: Rows) -> Iterator[tuple[str, dict[str, float]]]:
    """The rows that are not there yet, measured."""
    config = _changed({}, pixels)
    every, _ = load(config)
    images = every.part(splits.learnt_from(every, splits.held_out(every, config.held_out.test, config.seed)))
    for name, vectors_of in FIXED.items():
        if name not in rows:
            vectors = vectors_of(images)
            yield name, {part: _area(images, vectors, *masks) for part, *masks in _parts(images)}
    if START not in rows:
        yield START, _learn(_changed({"epochs": 0}, pixels), images)[""]
    for name in VARIANTS if pixels == min(PIXELS) else (SHIPS,):
        if name not in rows:
            for row, areas in _learn(_changed(VARIANTS[name], pixels), images).items():
                yield f"{name}{row}", areas


def _changed(learning: dict[str, Any], pixels: int) -> Config:
    config = Config.load(CONFIG)
    return config.model_copy(
        update={
            "seed": SEED,
            "network": config.network.model_copy(update={"image_size": pixels}),
            "learning": config.learning.model_copy(update={"back_to_start": 0.0, **learning}),
        }
    )


def _parts(images: Images) -> Iterator[tuple[str, splits.Mask, splits.Mask]]:
    """What is left out of learning, and the gallery that it is searched in."""
    sources, owners = np.array(images.sources), images.owners
    for source in sorted(set(images.sources)):
        yield source, sources == source, sources == source
    nih = sources == "NIH Clinical Center"
    patients = np.unique(owners[nih & images.judgeable])
    quarter = np.random.default_rng(SEED).permutation(patients)[: len(patients) // 4]
    yield QUARTER, np.isin(owners, quarter), nih & ~np.isin(owners, quarter)


def _learn(config: Config, images: Images) -> dict[str, dict[str, float]]:
    """The areas of each part without which was learnt, of the weights that were learnt and, where the trunk or the
    projection was taught, of those on the way back."""
    ways = WAYS_BACK if config.learning.epochs else {}
    areas: dict[str, dict[str, float]] = {"": {}} | {f", {words}": {} for words in ways}
    for part, left_out, gallery in _parts(images):
        seen = splits.learnt_from(images, left_out)
        learnt = images.part(seen & images.labelled)
        network = fit(config, learnt, None, images.part(seen)).network
        networks = [network, *(_on_the_way_back(config, network, learnt, ways.values()) if ways else ())]
        for row, one in zip(areas, networks, strict=True):
            needed = left_out | gallery
            vectors = np.zeros((len(images), config.network.dimensions), dtype=np.float32)
            vectors[needed] = embed(one, images.pixels[needed])
            areas[row][part] = _area(images, vectors, left_out, gallery)
    return areas


def _on_the_way_back(config: Config, network: Network, learnt: Images, parts: Collection[float]) -> list[Network]:
    """Between a network and the one that its learning began with, each of these parts (0..1) of the way to that."""
    start = new_network(config)
    begin_at_findings(start, learnt.pixels, learnt.findings, np.array(learnt.sources))
    between = [deepcopy(network) for _ in parts]
    for one, part in zip(between, parts, strict=True):
        go_back(one, start.state_dict(), part)
    return between


def _area(images: Images, vectors: NDArray[np.float32], left_out: splits.Mask, gallery: splits.Mask) -> float:
    """Mean over the findings of the AUC of the vote, each image that was left out searched in the gallery."""
    asked = left_out & images.judgeable & images.labelled
    at = gallery & images.labelled
    truth, owners = images.findings, images.owners
    archive = (vectors[at], truth[at], owners[at])
    found = retrieve_findings(vectors[asked], truth[asked], owners[asked], images.classes, archive)
    return found.figures(rounds=2)["auc"].value


def _page(tables: dict[int, Rows]) -> str:
    missing = "; ".join(name for name in VARIANTS if name not in tables[min(PIXELS)])
    rest = f"\nNot measured yet: {missing}.\n" if missing else ""
    measured = {pixels: rows for pixels, rows in tables.items() if rows}
    parts = "\n\n".join(f"## At {pixels} x {pixels} pixels\n\n{_table(rows)}" for pixels, rows in measured.items())
    return f"""\
# Ablation

Written by `make ablation` on {datetime.date.today()}: {torch.get_num_threads()} CPU cores, seed {SEED}.
`trainer/configs/cxr-1.toml`, with one change a row, without the patients who are held out for the figures of its card.
The first columns are sources that were left out of learning and are then searched in themselves, own patient left out;
the last is a quarter of NIH's patients, left out and searched among its others. Mean over the findings of the AUC
of the ten neighbours' vote; best mean first. One run a row, and a vote of few images: 0.01 is no difference.

"Taught": as `cxr-1.toml` says, 0.7 of the trunk left as it came, 4 epochs of multi-similarity beside a classifier, the
neighbourhoods of before kept by distillation. Every row begins where `trainer/learning/start.py` says. "Half way back
to the start" averages the weights that were learnt with those that learning began with (Wortsman et al., CVPR 2022).

{parts}
{rest}"""


def _table(rows: Rows) -> str:
    parts = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(parts)} | mean |", "|---|" + "---|" * (len(parts) + 1)]
    for name in sorted(rows, key=lambda name: -float(np.mean(list(rows[name].values())))):
        areas = [rows[name][part] for part in parts]
        lines.append(f"| {name} | {' | '.join(f'{area:.3f}' for area in [*areas, float(np.mean(areas))])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
