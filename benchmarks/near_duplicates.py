"""Which perceptual hash finds copies of a radiograph: ours, or one of the ImageHash package, at equal false pairs.

Copies are made from NIH radiographs, one a patient: compressed, made small, cropped, with letters. Beside them, the
pairs of published files that labels/near_duplicates.csv lists. False pairs are radiographs of different patients. Each
hash has the threshold that lets in the same part of these. Run by ``python -m benchmarks.near_duplicates``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxrsearch.encoder import Encoder
from cxrsearch.imaging.canonical import canonical
from cxrsearch.imaging.perceptual_hash import bits_between, crop_hashes
from cxrsearch.imaging.read import decode
from cxrsearch.model_card import DEFAULT_MODEL

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SEED = 0
PATIENTS = 100
SIDE = 512
FALSE = 0.001  # the part of pairs of different patients that a threshold lets in
Picture = Image.Image


@dataclass(frozen=True)
class Hash:
    """of: a picture -> its hash. between: two hashes -> a distance, smaller for pictures that are more alike."""

    name: str
    of: Callable[[Picture], Any]
    between: Callable[[Any, Any], float]


HASHES = (
    Hash("ours", lambda picture: crop_hashes(np.asarray(picture)), bits_between),
    Hash("phash, 8 x 8", imagehash.phash, lambda a, b: a - b),
    Hash("phash, 16 x 16", lambda picture: imagehash.phash(picture, 16), lambda a, b: a - b),
    Hash("dhash, 8 x 8", imagehash.dhash, lambda a, b: a - b),
    Hash("dhash, 16 x 16", lambda picture: imagehash.dhash(picture, 16), lambda a, b: a - b),
    Hash("crop_resistant", imagehash.crop_resistant_hash, lambda a, b: min(a - b, b - a)),
)


def measure(folder: Path) -> str:
    """The section of docs/reference/benchmarks.md; nothing is written into ``folder``."""
    originals = [_read(path) for path in _of_different_patients()]
    rng = np.random.default_rng(SEED)
    copies = {name: [make(picture, rng) for picture in originals] for name, make in COPIES.items()}
    published = [[_read(DATA / row[side]) for side in "ab"] for row in _listed()]
    lines = []
    for hash in HASHES:
        own = [hash.of(picture) for picture in originals]
        strangers = [hash.between(a, b) for n, a in enumerate(own) for b in own[:n]]
        limit = _limit(strangers)
        found = [
            _part([hash.between(*p) for p in zip(own, map(hash.of, made), strict=True)], limit)
            for made in copies.values()
        ]
        listed = _part([hash.between(hash.of(a), hash.of(b)) for a, b in published], limit)
        shown = " | ".join(f"{part:.0%}" for part in [*found, float(np.mean(found)), listed])
        lines.append(f"| {hash.name} | {limit:.4g} | {sum(s <= limit for s in strangers)} | {shown} |")
    return TEXT.format(
        patients=len(originals),
        pairs=len(originals) * (len(originals) - 1) // 2,
        part=FALSE,
        kinds=" | ".join(COPIES),
        columns="---|" * (len(COPIES) + 5),
        listed=len(published),
        rows="\n".join(lines),
    ) + similarities(originals, copies)


def similarities(originals: Sequence[Picture], copies: dict[str, list[Picture]]) -> str:
    """How alike the encoder that ships calls a copy: what a search may miss that compares only the nearest images."""
    encoder = Encoder(DEFAULT_MODEL)
    own = _embedded(encoder, originals)
    strangers = own @ own.T - 2 * np.eye(len(own))
    rows = [("the nearest image of another patient", strangers.max(axis=1))]
    rows += [(name, (own * _embedded(encoder, made)).sum(axis=1)) for name, made in copies.items()]
    lines = [f"| {name} | {' | '.join(f'{v:.3f}' for v in np.percentile(s, (5, 50, 95)))} |" for name, s in rows]
    return SIMILARITIES.format(model=encoder.card.name, rows="\n".join(lines))


def _embedded(encoder: Encoder, pictures: Sequence[Picture]) -> NDArray[np.float32]:
    found = []
    for picture in pictures:
        picture.save(stream := io.BytesIO(), "PNG")
        found.append(canonical(decode(stream.getvalue(), "copy")[0], encoder.card.image_size))
    return np.concatenate([encoder.embed(found[at : at + 16]) for at in range(0, len(found), 16)])


TEXT = """\
## Near duplicates

`benchmarks/near_duplicates.py`: copies made from {patients} NIH radiographs of as many patients, and {listed} pairs of
published files that `labels/near_duplicates.csv` calls the same image (they were looked for with a dhash). Each hash
has the largest threshold that lets in at most {part:.1%} of the {pairs} pairs of different patients. Beside ours those
of the ImageHash package.

| hash | threshold | false pairs | {kinds} | all copies | published |
|{columns}
{rows}
"""


SIMILARITIES = """
The similarity that `{model}` gives a picture and its copy (5th, 50th and 95th percentile):

| | 5 % | 50 % | 95 % |
|---|---|---|---|
{rows}
"""


def _limit(strangers: Sequence[float]) -> float:
    """The largest distance of a pair that keeps the part of the pairs at or below it within FALSE."""
    values = np.sort(np.array(strangers, dtype=np.float64))
    allowed = int(FALSE * len(values))
    below = values[values < values[allowed]]
    return float(below[-1]) if len(below) else float(np.nextafter(values[0], -np.inf))


def _part(distances: Sequence[float], limit: float) -> float:
    return float(np.mean([distance <= limit for distance in distances]))


def _of_different_patients() -> list[Path]:
    first = {path.name.split("_")[0]: path for path in sorted((DATA / "nih" / "images").iterdir(), reverse=True)}
    paths = sorted(first.values())
    drawn = np.random.default_rng(SEED).permutation(len(paths))[:PATIENTS]
    return [paths[n] for n in sorted(drawn)]


def _listed() -> list[dict[str, str]]:
    with (DATA / "labels" / "near_duplicates.csv").open(encoding="utf-8") as table:
        return [row for row in csv.DictReader(table) if row["same_image_likely"] == "yes" and row["mirrored"] == "0"]


def _read(path: Path) -> Picture:
    with Image.open(path) as image:
        picture = image.convert("L")
    picture.thumbnail((SIDE, SIDE))
    return picture


def _compressed(picture: Picture, rng: np.random.Generator) -> Picture:
    picture.save(stream := io.BytesIO(), "JPEG", quality=20)
    return Image.open(stream).convert("L")


def _small(picture: Picture, rng: np.random.Generator) -> Picture:
    return picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BICUBIC)


def _cropped(kept: float) -> Callable[[Picture, np.random.Generator], Picture]:
    def crop(picture: Picture, rng: np.random.Generator) -> Picture:
        width, height = round(picture.width * kept), round(picture.height * kept)
        left, top = (int(rng.integers(0, room + 1)) for room in (picture.width - width, picture.height - height))
        return picture.crop((left, top, left + width, top + height))

    return crop


def _lettered(picture: Picture, rng: np.random.Generator) -> Picture:
    made = picture.copy()
    ImageDraw.Draw(made).text((10, 10), "L  PORTABLE  14:32", fill=255, font=ImageFont.load_default(SIDE // 12))
    return made


def _all_of_it(picture: Picture, rng: np.random.Generator) -> Picture:
    return _compressed(_lettered(_cropped(0.9)(picture, rng), rng), rng)


COPIES: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "JPEG, quality 20": _compressed,
    "a quarter the size": _small,
    "5 % cut off": _cropped(0.95),
    "10 % cut off": _cropped(0.9),
    "20 % cut off": _cropped(0.8),
    "letters": _lettered,
    "10 % cut off, letters, JPEG": _all_of_it,
}


if __name__ == "__main__":
    print(measure(Path()))
