"""The training loop: labelled patients -> a network whose neighbours share their finding.

Multi-similarity loss with its miner (Wang et al., CVPR 2019, arXiv 1904.06627; Zhong et al. 2021) after a
warm-up by normalised softmax (Zhai and Wu, BMVC 2019): from random weights multi-similarity loss
alone collapses, every embedding becoming the same.
"""

from __future__ import annotations

import copy
import json
import math
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from pytorch_metric_learning.losses import MultiSimilarityLoss, NormalizedSoftmaxLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch.nn import functional

from cxrsearch import radiograph
from cxrsearch.clinical import values_of
from cxrsearch.errors import ImageError, InputError
from cxrsearch.radiograph import DEFAULT_GATES
from indexer import dataset as datasets
from trainer.metrics import RetrievalMetrics, retrieval_metrics
from trainer.network import Architecture, Network
from trainer.sampling import class_batches, vary

# Mean distance of an embedding from the mean of its batch (0: all alike; 1: spread over the whole sphere).
COLLAPSED_SPREAD = 0.02
_EMA_DECAY = 0.99


class Source(BaseModel):
    """A dataset to learn from: a mapping (TOML path or shipped name) and where its images are."""

    model_config = ConfigDict(extra="forbid")
    mapping: str
    root: str | None = None


class Config(BaseModel):
    """A training configuration, read from TOML. ``classes`` maps a class to the label values in it."""

    model_config = ConfigDict(extra="forbid")
    name: str
    data: list[Source]
    label: str = "finding"
    intended_use: dict[str, str] = {}  # for, not_for, data_licence: words for the card
    classes: dict[str, list[str]]
    seed: int = 0
    image_size: int = 224
    dimensions: int = 128
    layers: list[int] = [2, 2, 2, 2]
    width: int = 32
    epochs: int = 30
    images_per_class: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up_part: float = 0.3  # of the epochs, before multi-similarity loss joins
    held_out_part: float = 0.15  # of the patients, twice: to choose the epoch, and for the card's figures

    @classmethod
    def load(cls, path: Path) -> Config:
        """Raises InputError."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: not a training configuration that can be read: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@dataclass(frozen=True)
class Labelled:
    """N images in memory: pixels (N, S, S) uint8, labels (N,) as class numbers, patients N names."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: list[str]

    def part(self, chosen: NDArray[np.bool_]) -> Labelled:
        patients = [p for p, keep in zip(self.patients, chosen, strict=True) if keep]
        return Labelled(self.pixels[chosen], self.labels[chosen], patients)


@dataclass
class Fit:
    """What a training run gives: the chosen network, its figures on patients it never saw, the history.

    floor: the same figures, on the same images, of 32 x 32 thumbnails instead of embeddings.
    """

    network: Network
    test: RetrievalMetrics
    floor: RetrievalMetrics
    epoch: int
    images: dict[str, int]
    history: list[dict[str, float]] = field(default_factory=list)


def load_labelled(config: Config, base: Path) -> Labelled:
    """Every image that has a patient and a class. Roots are relative to ``base``, the configuration's folder.

    An image without a patient number is left out: it could be in training and in test at once.
    """
    pixels, labels, patients = [], [], []
    names = list(config.classes)
    for source in config.data:
        root = None if source.root is None else base / source.root
        mapping = source.mapping if not source.mapping.endswith(".toml") else str(base / source.mapping)
        data = datasets.load(mapping, root)
        for record in data.records():
            values = set(values_of(record.payload, config.label))
            label = next((i for i, name in enumerate(names) if values & set(config.classes[name])), None)
            if label is None or record.patient is None or record.problem is not None:
                continue
            try:
                images = radiograph.read(record.path, gates=DEFAULT_GATES)
            except ImageError:
                continue
            for image in images:
                pixels.append(np.rint(radiograph.canonical(image, config.image_size) * 255).astype(np.uint8))
                labels.append(label)
                patients.append(f"{data.mapping.patient_namespace}/{record.patient}")
    if len(set(labels)) < 2:
        raise InputError(f"{config.name}: fewer than two classes have images with a patient number; nothing to learn")
    return Labelled(np.stack(pixels), np.array(labels), patients)


def split_patients(patients: list[str], part: float, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the images whose patients choose the epoch (validation) and give the figures (test)."""
    names = np.unique(patients)
    order = np.random.default_rng(seed).permutation(names)
    size = max(1, round(len(names) * part))
    owner = np.array(patients)
    return np.isin(owner, order[:size]), np.isin(owner, order[size : 2 * size])


def embed(network: Network, pixels: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """(N, S, S) uint8 -> (N, D) float32 of unit length."""
    network.eval()
    device = next(network.parameters()).device
    found = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            images = torch.from_numpy(pixels[start : start + batch]).to(device).float().div_(255).unsqueeze(1)
            found.append(network(images.contiguous(memory_format=torch.channels_last)).embedding.cpu().numpy())
    return np.concatenate(found)


def train(config: Config, data: Labelled, log: Callable[[dict[str, float]], None]) -> Fit:
    """Train with all but the held-out patients; the epoch is chosen on validation, never on test, patients.

    Raises InputError when the embedding collapses.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    validation, test = split_patients(data.patients, config.held_out_part, config.seed)
    fitting, choosing, judging = data.part(~validation & ~test), data.part(validation), data.part(test)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = Network(Architecture(config.image_size, config.dimensions, config.layers, config.width))
    network = network.to(device).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network)
    warm_up = NormalizedSoftmaxLoss(len(config.classes), config.dimensions, temperature=0.1).to(device)
    similarity, miner = MultiSimilarityLoss(alpha=2, beta=50, base=0.5), MultiSimilarityMiner(epsilon=0.1)
    parameters = [*network.parameters(), *warm_up.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = sum(1 for _ in class_batches(fitting.labels.tolist(), fitting.patients, config.images_per_class, rng))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=steps * config.epochs, pct_start=0.15
    )
    best: tuple[float, int, dict[str, Any]] = (-1.0, 0, {})
    history: list[dict[str, float]] = []
    for epoch in range(1, config.epochs + 1):
        started, losses, spreads = time.monotonic(), [], []
        network.train()
        for batch in class_batches(fitting.labels.tolist(), fitting.patients, config.images_per_class, rng):
            images = torch.from_numpy(fitting.pixels[batch]).to(device).float().div_(255).unsqueeze(1)
            labels = torch.from_numpy(fitting.labels[batch]).to(device)
            images = vary(images, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                embedding = network(images).embedding
            embedding = embedding.float()
            loss = warm_up(embedding, labels)
            if epoch > config.warm_up_part * config.epochs:
                loss = loss + 0.5 * similarity(embedding, labels, miner(embedding, labels))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            _average(averaged, network, min(_EMA_DECAY, len(history) / 4 + 0.5))
            losses.append(float(loss.detach()))
            spreads.append(float((embedding - embedding.mean(dim=0)).norm(dim=1).mean().detach()))
        spread = float(np.mean(spreads))
        found = embed(averaged, choosing.pixels)
        score = retrieval_metrics(found, choosing.labels.tolist(), choosing.patients)
        line = {
            "epoch": epoch, "loss": float(np.mean(losses)), "spread": spread,
            "validation_map_at_r": score.map_at_r, "validation_precision_at_1": score.precision_at_1,
            "images_per_second": steps * len(config.classes) * config.images_per_class / (time.monotonic() - started),
        }  # fmt: skip
        history.append(line)
        log(line)
        if not math.isfinite(line["loss"]) or (spread < COLLAPSED_SPREAD and epoch > 3):
            raise InputError(
                f"{config.name}: the embedding collapsed at epoch {epoch} (spread {spread:.3f}): all images look alike."
                " Lower learning_rate or raise warm_up_part."
            )
        if score.map_at_r > best[0]:
            best = (score.map_at_r, epoch, copy.deepcopy(averaged.state_dict()))
    averaged.load_state_dict(best[2])
    figures = retrieval_metrics(embed(averaged, judging.pixels), judging.labels.tolist(), judging.patients)
    sizes = {"train": len(fitting.labels), "validation": len(choosing.labels), "test": len(judging.labels)}
    floor = retrieval_metrics(thumbnails(judging.pixels), judging.labels.tolist(), judging.patients)
    return Fit(averaged.cpu(), figures, floor, best[1], sizes, history)


def thumbnails(pixels: NDArray[np.uint8], size: int = 32) -> NDArray[np.float32]:
    """(N, S, S) uint8 -> (N, size * size) float32: what a search by looks alone would compare.

    Centred on their mean and brought to unit length.
    """
    small = functional.interpolate(torch.from_numpy(pixels).float().unsqueeze(1), (size, size), mode="area").flatten(1)
    centred = small - small.mean(dim=1, keepdim=True)
    return np.asarray(functional.normalize(centred, dim=1).numpy(), dtype=np.float32)


def _average(averaged: Network, network: Network, decay: float) -> None:
    """Exponential moving average of the weights; batch-norm counters are copied."""
    with torch.no_grad():
        for kept, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


def card_of(config: Config, fit: Fit, command: str) -> dict[str, Any]:
    """The model card's own words: what it was trained on, by which command, with which figures."""
    return {
        "name": config.name,
        "backbone": f"open_clip ModifiedResNet, layers {config.layers}, width {config.width}, from random weights",
        "trained_on": [source.mapping for source in config.data],
        "classes": config.classes,
        "images": fit.images,
        "intended_use": config.intended_use,
        "command": command,
        "seed": config.seed,
        "epoch": fit.epoch,
        "figures": {
            "what": "patients held out of training and of every choice; exact search, the query's patient left out",
            **asdict(fit.test),
        },
        "floor": {"what": "the same images compared by 32 x 32 thumbnails", **asdict(fit.floor)},
    }


def run(config_path: Path, folder: Path, log: Callable[[dict[str, float]], None]) -> Fit:
    """Train as ``config_path`` says and write the model folder and ``metrics.jsonl`` into ``folder``."""
    from trainer.export import export

    config = Config.load(config_path)
    data = load_labelled(config, config_path.parent)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as metrics:

        def both(line: dict[str, float]) -> None:
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            log(line)

        fit = train(config, data, both)
    export(fit.network, folder / "model", card_of(config, fit, f"cxrsearch train {config_path} --out {folder}"))
    return fit
