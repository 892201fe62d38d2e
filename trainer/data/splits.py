"""Which images are learnt from and which are judged: folds, a held-out part, one site at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cxrsearch.errors import InputError
from trainer.config import HeldOut
from trainer.data.images import Images

# A site with fewer labelled images tells nothing on its own.
SMALLEST_SITE = 20

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RunParts:
    """The three parts of a training run's images, (N,) each, with or without labels; no patient is in two."""

    learnt: Mask
    validation: Mask
    test: Mask


def folds(images: Images, count: int, by: Literal["patient", "image"], seed: int) -> Iterator[tuple[str, Mask]]:
    """Names of ``count`` folds, and which of the labelled images are judged in each: every image in one of them.

    Classes are spread evenly. by "patient": no patient is in two folds; "image": at random, whoever's they are.
    Raises InputError.
    """
    labelled = np.flatnonzero(images.judgeable & (images.labels >= 0))
    labels, owners = images.labels[labelled], images.owners[labelled]
    rarest = min(Counter(labels.tolist()).values())
    if rarest < count or len(set(owners.tolist())) < count:
        raise InputError(f"--folds {count}: the rarest class has {rarest} images; ask for fewer folds")
    kind, groups = (StratifiedGroupKFold, owners) if by == "patient" else (StratifiedKFold, None)
    splitter = kind(count, shuffle=True, random_state=seed)
    for number, (_, judged) in enumerate(splitter.split(labelled, labels, groups), start=1):
        mask = np.zeros(len(images), dtype=bool)
        mask[labelled[judged]] = True
        yield f"fold {number} of {count}", mask


def sites(images: Images, field: str) -> Iterator[tuple[str, Mask]]:
    """Each value of ``field`` that enough labelled images have, and which images have it, labelled or not.

    Raises InputError.
    """
    values = np.array([value if value is not None else "" for value in images.values(field)])
    labelled = images.judgeable
    sizes = Counter(values[labelled & (values != "")].tolist())
    enough = [value for value, number in sorted(sizes.items()) if number >= SMALLEST_SITE]
    if not enough or len(sizes) < 2:
        raise InputError(
            f"--leave-out {field}: fewer than two values, or none with {SMALLEST_SITE} labelled images;"
            " nothing to leave out"
        )
    for value in enough:
        yield f"without {field} {value}", values == value


def unknown(images: Images, field: str) -> Mask:
    """Which images have no value of ``field``, and so may be of whichever is left out."""
    return np.array([value is None for value in images.values(field)], dtype=bool)


def held_out(images: Images, part: float, seed: int) -> Mask:
    """Which images belong to ``part`` of the patients, drawn at random; unlabelled images of theirs too."""
    owners = images.owners
    labelled = np.unique(owners[images.judgeable])
    size = round(len(labelled) * part)
    return np.isin(owners, np.random.default_rng(seed).permutation(labelled)[:size])


def run_parts(images: Images, parts: HeldOut, seed: int) -> RunParts:
    """What a training run learns from, what chooses its epoch, and what it is judged on."""
    test = held_out(images, parts.test, seed)
    rest = learnt_from(images, test)
    validation = np.zeros(len(images), dtype=bool)
    if parts.validation:
        others = np.flatnonzero(rest)
        validation[others[held_out(images.part(others), parts.validation, seed + 1)]] = True
    return RunParts(rest & ~validation, validation, test)


def learnt_from(images: Images, judged: Mask, by: Literal["patient", "image"] = "patient") -> Mask:
    """What may be seen when ``judged`` is to be judged: nothing of its patients, with or without labels."""
    if by == "image":
        return ~judged
    return ~np.isin(images.owners, images.owners[judged])
