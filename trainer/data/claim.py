"""A run folder belongs to what determines its results, and to nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cxrsearch import files, settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.errors import InputError
from cxrsearch.model_card import read_card
from trainer.config import Config, imported_folder
from trainer.data.images import Images

CLAIM = "config.json"


def claim(folder: Path, config: Config, images: Images, protocol: str, allow_leakage: bool) -> None:
    """Write what a run in ``folder`` is of: the configuration, the encoder it begins at, the protocol, whether leaks
    were allowed, and a keyed digest of the images, what is known of them, and whose they are.

    Raises InputError where the folder holds a run of something else, and says what differs.
    """
    identity = load_identity(settings.key_file(), create=True)
    assert identity is not None
    mine = {
        "configuration": config.model_dump(mode="json"),
        "protocol": protocol,
        "leakage allowed": allow_leakage,
        "images": identity.images(_digest(images)),
    }
    beginning = imported_folder(config)
    if beginning is not None:
        mine["encoder"] = read_card(beginning).fingerprint
    mark = folder / CLAIM
    try:
        folder.mkdir(parents=True, exist_ok=True)
        theirs = json.loads(mark.read_text("utf-8")) if mark.exists() else mine
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no run can be written there ({error})") from None
    other = [name for name, value in mine.items() if not isinstance(theirs, dict) or theirs.get(name) != value]
    if other:
        raise InputError(f"{folder}: holds a run of another {', '.join(other)}; give another --out")
    files.write(mark, json.dumps(mine, indent=2) + "\n")


def claimed(folder: Path, images: Images) -> bool:
    """Whether the run in ``folder`` was of exactly these images, as far as this machine's key can tell."""
    identity, theirs = load_identity(settings.key_file(), create=False), _read(folder)
    return identity is not None and theirs.get("images") == identity.images(_digest(images))


def configuration_in(folder: Path) -> dict[str, Any] | None:
    """The configuration that the training run in ``folder`` is of; None where there is no such run."""
    found = _read(folder).get("configuration")
    return found if isinstance(found, dict) else None


def _read(folder: Path) -> dict[str, Any]:
    """What ``claim`` wrote there; empty where it wrote nothing."""
    try:
        found = json.loads((folder / CLAIM).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(images: Images) -> str:
    """The same for the same files with the same classes, sources and patients in the same order."""
    whole = hashlib.sha256(images.findings.tobytes() + images.only_learnt.tobytes())
    for row in zip(images.digests, images.keys, images.datasets, images.sources, images.owners.tolist(), strict=True):
        whole.update(json.dumps([*row, images.classes]).encode())
    return whole.hexdigest()
