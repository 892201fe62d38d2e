"""What each part of the method carries over to a hospital that was left out of learning: ``make ablation``.

Every row changes one thing of trainer/configs/cxr-1.toml, learns without each source in turn, and is judged on that
source searched in itself, own patient left out: the figure is the mean over its findings of the AUC of the neighbours'
vote. What ships is chosen by this table, and never by kermany or anything that is judged in docs/reference/cxr-1.md.
Pictures are smaller than those that ship are learnt from: differences between rows count, not their height.
"""

from __future__ import annotations

import datetime
import json
import sys
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
from trainer.learning.fit import architecture, fit
from trainer.learning.network import Network
from trainer.learning.start import begin_at_principal_components
from trainer.metrics.findings import retrieve_findings

ROOT = Path(__file__).parent.parent
DONE = ROOT / "runs" / "ablation.jsonl"
PAGE = ROOT / "docs" / "reference" / "ablation.md"
CONFIG = ROOT / "trainer" / "configs" / "cxr-1.toml"
PIXELS, SEED = 128, 0
WHOLE_TRUNK = {"frozen": 0.0}
# Name of a row -> what it changes of the learning.
VARIANTS: dict[str, dict[str, Any]] = {
    "as cxr-1 is learnt": {},
    "the whole trunk learns": WHOLE_TRUNK,
    "no part of the trunk learns": {"frozen": 1.0},
    "neighbours before learning are not kept (no distillation)": {"distillation": 0.0},
    "no multi-similarity: findings alone": {"objective": "cross-entropy"},
    "the whole trunk learns, at a tenth of the rate": {**WHOLE_TRUNK, "trunk_rate": 0.1},
    "the whole trunk learns for 8 epochs": {**WHOLE_TRUNK, "epochs": 8},
    "2 epochs without labels first": {"self_supervised_epochs": 2},
    "mirrored half the time": {"mirror": True},
}
# Averaging weights with those that learning began with: Wortsman et al., Robust fine-tuning (CVPR 2022).
HALF_WAY = "half way back to the start"


def main() -> None:
    """Rows that runs/ablation.jsonl has already are kept: delete it to measure anew."""
    DONE.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in DONE.read_text("utf-8").splitlines()] if DONE.exists() else []
    rows: dict[str, dict[str, float]] = {row["row"]: row["areas"] for row in known}
    config = _changed({})
    images, _ = load(config)
    fixed = {
        "32 x 32 thumbnails": baselines.thumbnails(images),
        "ImageNet trunk, frozen": baselines.frozen_trunk(images),
    }
    for name, vectors in fixed.items():
        _keep(rows, name, {source: _area(images, vectors, left_out) for source, left_out in _sources(images)})
    for name, learning in VARIANTS.items():
        if f"{name}, {HALF_WAY}" not in rows:
            for row, areas in _learn(_changed(learning), images).items():
                _keep(rows, f"{name}{row}", areas)
    PAGE.write_text(_page(rows), "utf-8")
    print(f"wrote {PAGE}")


def _keep(rows: dict[str, dict[str, float]], name: str, areas: dict[str, float]) -> None:
    if name in rows:
        return
    rows[name] = areas
    with DONE.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"row": name, "areas": areas}, ensure_ascii=False) + "\n")
    print(name, *(f"{area:.3f}" for area in areas.values()), sep="  ", file=sys.stderr, flush=True)


def _changed(learning: dict[str, Any]) -> Config:
    config = Config.load(CONFIG)
    return config.model_copy(
        update={
            "seed": SEED,
            "network": config.network.model_copy(update={"image_size": PIXELS}),
            "learning": config.learning.model_copy(update=learning),
        }
    )


def _sources(images: Images) -> list[tuple[str, splits.Mask]]:
    names = np.array(images.sources)
    return [(source, names == source) for source in sorted(set(images.sources))]


def _learn(config: Config, images: Images) -> dict[str, dict[str, float]]:
    """The areas of each source without which was learnt, of the weights that were learnt and half way back."""
    areas: dict[str, dict[str, float]] = {"": {}, f", {HALF_WAY}": {}}
    for source, left_out in _sources(images):
        seen = splits.learnt_from(images, left_out)
        learnt = images.part(seen & images.labelled)
        network = fit(config, learnt, None, images.part(seen)).network
        torch.manual_seed(config.seed)
        start = Network(architecture(config), config.network.pretrained)
        begin_at_principal_components(start, learnt.pixels, config.seed)
        between = Network(architecture(config), config.network.pretrained)
        ends = (network.state_dict(), start.state_dict())
        between.load_state_dict(
            {name: (one + ends[1][name]) / 2 if one.is_floating_point() else one for name, one in ends[0].items()}
        )
        for row, one in zip(areas, (network, between.eval()), strict=True):
            vectors = np.zeros((len(images), config.network.dimensions), dtype=np.float32)
            vectors[left_out] = embed(one, images.pixels[left_out])
            areas[row][source] = _area(images, vectors, left_out)
    return areas


def _area(images: Images, vectors: NDArray[np.float32], left_out: splits.Mask) -> float:
    """Mean over the findings of the AUC of the vote, each image of the source searched in the rest of it."""
    asked = left_out & images.judgeable & images.labelled
    at = left_out & images.labelled
    truth, owners = images.findings, images.owners
    gallery = (vectors[at], truth[at], owners[at])
    found = retrieve_findings(vectors[asked], truth[asked], owners[asked], images.classes, gallery)
    return found.figures(rounds=2)["auc"].value


def _page(rows: dict[str, dict[str, float]]) -> str:
    sources = sorted(next(iter(rows.values())))
    order = sorted(rows, key=lambda name: -float(np.mean(list(rows[name].values()))))
    lines = [f"| | {' | '.join(sources)} | mean |", "|---|" + "---|" * (len(sources) + 1)]
    for name in order:
        areas = [rows[name][source] for source in sources]
        cells = [f"{area:.3f}" for area in [*areas, float(np.mean(areas))]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    missing = "; ".join(name for name in VARIANTS if name not in rows)
    rest = f"\nNot measured yet: {missing}.\n" if missing else ""
    return f"""\
# Ablation

Written by `make ablation` on {datetime.date.today()}: {torch.get_num_threads()} CPU cores, seed {SEED}.
`trainer/configs/cxr-1.toml` at {PIXELS} x {PIXELS} pixels, with one change a row. Each column is a source that was left
out of learning and is then searched in itself, own patient left out: mean over the findings of the AUC of the ten
neighbours' vote. Best mean first. One run a row: a difference of 0.01 is within what another seed changes.

"Half way back to the start" averages the weights that were learnt with those that learning began with (Wortsman et al.,
CVPR 2022).

{table}
{rest}"""


if __name__ == "__main__":
    main()
