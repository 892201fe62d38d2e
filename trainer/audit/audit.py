"""What is wrong with a dataset before anyone trains on it: leaks between patients and shortcuts past the disease."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrsearch.clinical.fields import values_of
from indexer.dataset import Dataset
from trainer.audit import contradictions
from trainer.audit.shortcuts import SMALLEST_CLASS, Shortcut, shortcuts
from trainer.data.images import Images
from trainer.data.patients import NearDuplicate, near_duplicates, patient_groups
from trainer.data.training_set import found_in_classes, read

# Enough to tell duplicates and shortcuts by, and twenty times quicker to read than a radiograph's own size.
SIZE = 192
# Difference between two classes in how often a field is known, from which being known tells the class.
_KNOWN_APART = 0.5
_KINDS = ("different classes", "different patients", "different datasets", "the same patient or unknown")


@dataclass(frozen=True)
class Risk:
    """One risk. found: it is there; shown: there were enough images to see it; words: what was found, and what to do
    about it."""

    risk: str
    found: bool
    words: str
    shown: bool = True

    @property
    def verdict(self) -> str:
        return "risk" if self.found else "clear" if self.shown else "not shown"


@dataclass(frozen=True)
class Audit:
    """patients: as the dataset gives them; groups: joined by near duplicates as ``trainer/data/patients.py`` says.

    exact: groups of numbers of images whose files are the same bytes. pairs: near duplicates, the exact included.
    by_site: label -> site -> images. known: field -> label -> part of the label's images that have it.
    """

    images: Images
    unreadable: int
    label: str
    site: str
    groups: list[str | None]
    exact: list[list[int]]
    pairs: list[NearDuplicate]
    several_classes: dict[str, set[str]]
    several_sites: dict[str, set[str]]
    by_site: dict[str, dict[str, int]]
    shortcuts: list[Shortcut]
    known: dict[str, dict[str, float]]
    risks: list[Risk]

    def kind(self, pair: NearDuplicate) -> str:
        """What is wrong with a pair, the worst first: the same picture with two classes is."""
        first, second, images = pair.first, pair.second, self.images
        classes = {int(images.labels[n]) for n in (first, second)} - {-1}
        patients = {images.patients[n] for n in (first, second)} - {None}
        if len(classes) == 2:
            return _KINDS[0]
        if len(patients) == 2:
            return _KINDS[1]
        return _KINDS[2] if images.datasets[first] != images.datasets[second] else _KINDS[3]

    def by_kind(self) -> dict[str, list[NearDuplicate]]:
        found: dict[str, list[NearDuplicate]] = {kind: [] for kind in _KINDS}
        for pair in self.pairs:
            found[self.kind(pair)].append(pair)
        return found


def audit(
    sets: Sequence[Dataset],
    label: str = "finding",
    site: str = "site",
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Look for every risk. ``label`` and ``site`` are fields; "dataset" stands for the site where no image has one."""
    found, unreadable = read(sets, SIZE, advance)
    images = found_in_classes(found, label, {})
    if not any(images.values(site)):
        site = "dataset"
    pairs = near_duplicates(images)
    groups = patient_groups(images, pairs)
    labels = [images.classes[n] if n >= 0 else None for n in images.labels]
    sites = images.values(site)
    grouped = replace(images, patients=groups)
    unfinished = Audit(
        images,
        unreadable,
        label,
        site,
        groups,
        _exact(images),
        pairs,
        _several(images.patients, labels),
        _several(images.patients, sites),
        _table(labels, sites),
        shortcuts(grouped, label, labels) + shortcuts(grouped, site, sites),
        _known(images, labels),
        [],
    )
    return replace(unfinished, risks=_risks(unfinished))


def _exact(images: Images) -> list[list[int]]:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for number, digest in enumerate(images.digests):
        by_digest[digest].append(number)
    return [numbers for numbers in by_digest.values() if len({images.keys[n] for n in numbers}) > 1]


def _several(patients: Sequence[str | None], values: Sequence[str | None]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for patient, value in zip(patients, values, strict=True):
        if patient is not None and value is not None:
            found[patient].add(value)
    return {patient: several for patient, several in found.items() if len(several) > 1}


def _table(labels: Sequence[str | None], sites: Sequence[str | None]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for label, site in zip(labels, sites, strict=True):
        found[label or "unknown"][site or "unknown"] += 1
    return {label: dict(row) for label, row in found.items()}


def _known(images: Images, labels: Sequence[str | None]) -> dict[str, dict[str, float]]:
    names = sorted({name for payload in images.payloads for name in payload})
    classes = [name for name in images.classes if labels.count(name) >= SMALLEST_CLASS]
    return {
        name: {
            label: float(
                np.mean(
                    [bool(values_of(p, name)) for p, own in zip(images.payloads, labels, strict=True) if own == label]
                )
            )
            for label in classes
        }
        for name in names
    }


def _known_of(images: Images, field: str) -> str:
    known = [value for value in images.values(field) if value is not None]
    return f"{len(known)} images, {len(set(known))} values"


def _contradictions(images: Images, several: bool) -> list[Risk]:
    """Numbers that cannot be one person's; of fields that the datasets have."""
    found = []
    if any(images.values("sex")):
        mixed = contradictions.sexes(images)
        words = f"{len(mixed)} patient numbers have two sexes."
        what = " They may be two people: see to the numbers before splitting by them." if mixed else ""
        found.append(Risk("one patient, two sexes", bool(mixed), words + what, several))
    if any(images.values("age")):
        impossible, apart = contradictions.ages(images)
        words = (
            f"{impossible} images have an age that nobody has; {len(apart)} patient numbers have ages more than"
            f" {contradictions.FURTHEST_APART} years apart."
        )
        found.append(Risk("impossible ages", bool(impossible or apart), words))
    return found


def _risks(audit: Audit) -> list[Risk]:
    images, kinds = audit.images, audit.by_kind()
    numbered = sum(patient is not None for patient in images.patients)
    grouped = sum(group is not None for group in audit.groups)
    followed = sum(number > 1 for number in Counter(p for p in images.patients if p is not None).values())
    alone = "" if followed else " No patient number has more than one image."
    bad = {kind: len(pairs) for kind, pairs in kinds.items() if pairs and kind != _KINDS[3]}
    found = [
        Risk(
            "patients unknown",
            grouped < len(images),
            f"{len(images) - numbered} of {len(images)} images have no patient number; near duplicates tell whose"
            f" {grouped - numbered} of them are. "
            + ("The rest cannot be split by patient: they may leak." if grouped < len(images) else ""),
        ),
        Risk(
            "patients in several classes",
            bool(audit.several_classes),
            f"{len(audit.several_classes)} patients have images of more than one {audit.label}."
            + (
                " Folds drawn by image show the network patients it is tested on: split by patient."
                if audit.several_classes
                else alone
            ),
            followed > 0,
        ),
        Risk(
            f"patients in several sites ({audit.site})",
            bool(audit.several_sites),
            f"{len(audit.several_sites)} patients have images of more than one {audit.site}."
            + (" Leaving one site out does not leave its patients out." if audit.several_sites else alone),
            followed > 0,
        ),
        *_contradictions(images, followed > 0),
        Risk(
            "exact duplicates",
            bool(audit.exact),
            f"{sum(map(len, audit.exact))} files are {len(audit.exact)} pictures."
            + (" Delete copies, or keep them in one fold." if audit.exact else ""),
        ),
        Risk(
            "near duplicates",
            bool(bad),
            (", ".join(f"{number} pairs of {kind}" for kind, number in bad.items()) or "no pair that could leak")
            + f"; {len(kinds[_KINDS[3]])} pairs of the same patient or of unknown ones."
            + (" Random folds would have one in training and the other in test." if bad else ""),
        ),
    ]
    for target in (audit.label, audit.site):
        mine = [s for s in audit.shortcuts if s.target == target and s.found]
        tested = [s for s in audit.shortcuts if s.target == target]
        shown = bool(tested) and all(s.ruled_out for s in tested)
        sizes = f"{tested[0].images} images, {tested[0].values} values" if tested else ""
        words = "; ".join(f"{s.source} tells {s.best} (AUC {s.auc:.2f})" for s in mine)
        found.append(
            Risk(
                f"shortcuts to {target}",
                bool(mine),
                (
                    f"{words}. A network can learn these instead of disease: compare every result with its baselines."
                    if mine
                    else f"none of shape, file size, border and thumbnail tells a value of it ({sizes})"
                    if shown
                    else f"not shown: {sizes}: too few to rule it out"
                    if tested
                    else f"not tested: {_known_of(images, target)}; two values of {SMALLEST_CLASS} images are needed"
                ),
                shown,
            )
        )
    uneven = [
        name
        for name, row in audit.known.items()
        if name != audit.label and row and max(row.values()) - min(row.values()) > _KNOWN_APART
    ]
    compared = max((len(row) for row in audit.known.values()), default=0) > 1
    found.append(
        Risk(
            "missing values that tell the class",
            bool(uneven),
            f"{', '.join(uneven)}: known for one class and not for another. That it is known is an answer in itself."
            if uneven
            else "no field is known for one class and missing for another"
            if compared
            else f"not shown: fewer than two classes have {SMALLEST_CLASS} images",
            compared,
        )
    )
    return found
