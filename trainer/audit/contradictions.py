"""One patient number that cannot be one person: two sexes, ages too far apart; and ages that nobody has."""

from __future__ import annotations

from collections import defaultdict

from cxrsearch.clinical.fields import values_of
from trainer.data.images import Images

# Nobody is older, in years.
OLDEST = 120
# The ages of one patient, in years, are rarely further apart in one archive.
FURTHEST_APART = 20


def sexes(images: Images) -> set[str]:
    """The patients with more than one sex."""
    found: dict[str, set[str]] = defaultdict(set)
    for patient, payload in zip(images.patients, images.payloads, strict=True):
        if patient is not None:
            found[patient] |= {str(value).strip().upper()[:1] for value in values_of(payload, "sex")} & {"F", "M"}
    return {patient for patient, known in found.items() if len(known) > 1}


def ages(images: Images) -> tuple[int, set[str]]:
    """How many images have an age that nobody has, and the patients whose ages are too far apart."""
    found: dict[str, list[float]] = defaultdict(list)
    impossible = 0
    for patient, payload in zip(images.patients, images.payloads, strict=True):
        own = [float(v) for v in values_of(payload, "age") if isinstance(v, int | float) and not isinstance(v, bool)]
        impossible += any(not 0 <= age <= OLDEST for age in own)
        if patient is not None:
            found[patient] += own
    return impossible, {patient for patient, own in found.items() if own and max(own) - min(own) > FURTHEST_APART}
