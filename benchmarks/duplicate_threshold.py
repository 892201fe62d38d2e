"""How many bits of a perceptual hash copies and strangers differ in: where ``trainer/data/patients.py`` draws its line.

Copies: pictures of darkcovidnet that covid-chestxray has under the same name. Strangers: darkcovidnet's images of
different NIH patients. Run by ``python -m benchmarks.duplicate_threshold``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from indexer import dataset
from trainer.audit.audit import SIZE
from trainer.data import patients as duplicates
from trainer.data.training_set import read

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
THRESHOLDS = (30, 40, 50, 55, 60, 70)


def main() -> None:
    sets = [dataset.load(name, DATA / name) for name in ("darkcovidnet", "covid-chestxray")]
    images, _ = read(sets, SIZE)
    bits = duplicates.differing_bits(images)
    stems = np.array([PurePosixPath(key).stem for key in images.keys])
    ours = np.array(images.datasets) == "darkcovidnet"
    numbered = np.array([patient is not None for patient in images.patients]) & ours
    copies = bits[np.ix_(ours & ~numbered, ~ours)][stems[ours & ~numbered][:, None] == stems[~ours][None, :]]
    owner = np.array([str(patient) for patient in images.patients])[numbered]
    strangers = bits[np.ix_(numbered, numbered)][np.triu(owner[:, None] != owner[None, :])]
    print(
        f"{len(copies)} pairs under one name, {len(strangers)} pairs of different patients; bits of {duplicates.BITS}"
    )
    for limit in THRESHOLDS:
        print(f"at most {limit}: {(copies <= limit).sum()} of the copies, {(strangers <= limit).sum()} strangers")


if __name__ == "__main__":
    main()
