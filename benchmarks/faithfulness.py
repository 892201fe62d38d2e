"""Does a place map say what the score hangs on? Deletion and insertion, beside random, central and gradient maps.

Places are hidden (the picture there is blurred) from the most to the least important by a map, or shown so in a blurred
picture; after each the similarity to the hit is measured. A map that knows what matters loses it soonest when hiding
and gains it soonest when showing (RISE: Petsiuk, Das and Saenko, BMVC 2018). All maps have the encoder's places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from cxrsearch.encoder import Encoder
from cxrsearch.imaging.canonical import canonical
from cxrsearch.imaging.read import read
from cxrsearch.model_card import DEFAULT_MODEL
from cxrsearch.statistics import Figure
from trainer.learning.export import load_network
from trainer.learning.network import Network

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
QUERIES, GALLERY, SEED, RESAMPLES = 50, 600, 0, 2000
# Pixels: at 160 by 160 nothing of lungs is left, the grey of each part stays.
BLUR = 16
_STEPS = 32  # of integrated gradients

Map = Callable[["NearDuplicate"], NDArray[np.float64]]


class NearDuplicate:
    """A query and its hit. picture, blurred: (S, S) float32 in 0..1; hit: the hit's embedding, (D,)."""

    def __init__(self, picture: NDArray[np.float32], places: NDArray[np.float32], hit: NDArray[np.float32]) -> None:
        self.picture, self.places, self.hit = picture, places, hit
        blurred = Image.fromarray(np.rint(picture * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(BLUR))
        self.blurred = np.asarray(blurred, dtype=np.float32) / 255
        self.grid: tuple[int, int] = places.shape[1:]  # type: ignore[assignment]


def measure(folder: Path) -> str:
    encoder, network = Encoder(DEFAULT_MODEL), load_network(DEFAULT_MODEL).eval()
    pairs = list(_pairs(encoder))
    rng = np.random.default_rng(SEED)
    maps: dict[str, Map] = {
        "place map: what `--explain` shows": lambda pair: np.einsum("dyx,d->yx", pair.places, pair.hit),
        "Grad-CAM, last feature map": lambda pair: _grad_cam(network, pair),
        "integrated gradients": lambda pair: _integrated(network, pair),
        "gradient times input": lambda pair: _gradient(network, pair),
        "from the centre outwards": _central,
        "random": lambda pair: rng.random(pair.grid),
    }
    areas = {name: np.array([_areas(encoder, pair, made(pair)) for pair in pairs]) for name, made in maps.items()}
    draws = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    rows = [f"| {name} | {_cell(found, 0, draws)} | {_cell(found, 1, draws)} |" for name, found in areas.items()]
    against = areas["place map: what `--explain` shows"].copy()
    against[:, :2] -= areas["random"][:, :2]
    return f"""\
## Faithfulness of place maps

`benchmarks/faithfulness.py`: {len(pairs)} images of ../shared/data (seed {SEED}) and the most similar image of another
patient among {GALLERY}, with {Encoder(DEFAULT_MODEL).card.name}, whose training has seen most of them. Areas under the
curve of the similarity to the hit, 1 for the whole picture and 0 for the blurred one; over all queries, with a 95 %
interval by bootstrap over them.

| places ordered by | hiding the most important first (lower is better) | showing them first (higher is better) |
|---|---|---|
{chr(10).join(rows)}

Place map less random: hiding {_cell(against, 0, draws)}, showing {_cell(against, 1, draws)}.
"""


def _pairs(encoder: Encoder) -> Iterator[NearDuplicate]:
    """Images whose patient is known, drawn at random; the first QUERIES of them ask."""
    rng = np.random.default_rng(SEED)
    found = sorted((DATA / "darkcovidnet").glob("[NP]*/*.jpg")) + sorted(
        (DATA / "covid-chestxray/images").glob("*.jpg")
    )
    files = [found[number] for number in rng.permutation(len(found))[:GALLERY]]
    # NIH names begin with the patient's number; of the other set each file counts as a patient's only one.
    owners = np.array([file.stem.split("_")[0] if file.parent.name != "images" else file.stem for file in files])
    pictures = [canonical(read(file)[0], encoder.card.image_size) for file in files]
    encoded = [encoder.encode(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
    vectors = np.concatenate([part.embedding for part in encoded])
    places = np.concatenate([part.places for part in encoded])
    for number in range(QUERIES):
        scores = np.where(owners == owners[number], -2, vectors @ vectors[number])
        yield NearDuplicate(pictures[number], places[number], vectors[scores.argmax()])


def _areas(encoder: Encoder, pair: NearDuplicate, values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean similarity above that of the blurred picture while the places are hidden, and shown, from the most important
    to the least; and of the whole picture."""
    size, (rows, columns) = len(pair.picture), pair.grid
    hidden, shown = [pair.picture], [pair.blurred]
    for place in np.argsort(-values, axis=None):
        y, x = divmod(int(place), columns)
        part = (slice(y * size // rows, (y + 1) * size // rows), slice(x * size // columns, (x + 1) * size // columns))
        hiding, showing = hidden[-1].copy(), shown[-1].copy()
        hiding[part], showing[part] = pair.blurred[part], pair.picture[part]
        hidden.append(hiding)
        shown.append(showing)
    scores = encoder.embed(hidden + shown) @ pair.hit
    whole, nothing = scores[0], scores[len(hidden) - 1]
    gained = scores - nothing
    return float(gained[: len(hidden)].mean()), float(gained[len(hidden) :].mean()), float(whole - nothing)


def _score(network: Network, pictures: Tensor, pair: NearDuplicate) -> Tensor:
    total: Tensor = (network(pictures[:, None]).embedding @ torch.from_numpy(pair.hit)).sum()
    return total


def _gradient(network: Network, pair: NearDuplicate) -> NDArray[np.float64]:
    picture = torch.from_numpy(pair.picture)[None].requires_grad_()
    (gradient,) = torch.autograd.grad(_score(network, picture, pair), picture)
    return _by_place((gradient * picture)[0].detach().numpy(), pair)


def _integrated(network: Network, pair: NearDuplicate) -> NDArray[np.float64]:
    """Sundararajan, Taly and Yan, ICML 2017, from the blurred picture."""
    begin, end = torch.from_numpy(pair.blurred), torch.from_numpy(pair.picture)
    steps = (torch.arange(_STEPS) + 0.5)[:, None, None] / _STEPS
    path = (begin + steps * (end - begin)).requires_grad_()
    (gradient,) = torch.autograd.grad(_score(network, path, pair), path)
    return _by_place((gradient.mean(dim=0) * (end - begin)).numpy(), pair)


def _grad_cam(network: Network, pair: NearDuplicate) -> NDArray[np.float64]:
    """Selvaraju et al., ICCV 2017, on what attention and projection are given."""
    kept: list[Tensor] = []
    hook = network.normalise.register_forward_hook(lambda module, given, made: kept.append(made))
    score = _score(network, torch.from_numpy(pair.picture)[None], pair)
    hook.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return np.asarray((weights * kept[0]).sum(dim=1).relu()[0].detach().numpy(), dtype=np.float64)


def _central(pair: NearDuplicate) -> NDArray[np.float64]:
    y, x = (np.arange(side) - (side - 1) / 2 for side in pair.grid)
    return -np.hypot(y[:, None], x[None, :])


def _by_place(values: NDArray[np.float32], pair: NearDuplicate) -> NDArray[np.float64]:
    rows, columns = pair.grid
    size = len(values)
    return np.asarray(values.reshape(rows, size // rows, columns, size // columns).sum(axis=(1, 3)), dtype=np.float64)


def _cell(areas: NDArray[np.float64], column: int, draws: NDArray[np.int64]) -> str:
    """A ratio of means: a query that loses nothing by being blurred has little weight in it."""
    low, high = np.quantile(areas[draws, column].mean(axis=1) / areas[draws, 2].mean(axis=1), (0.025, 0.975))
    return Figure(areas[:, column].mean() / areas[:, 2].mean(), low, high).written()


if __name__ == "__main__":
    print(measure(Path()))
