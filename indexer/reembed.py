"""An index by another model: ids, facts and thumbnails stay, vectors change.

    TO.reembedding/of.json      the models and what is being made of what
    TO.reembedding/000001.npz   ids, digests and vectors of images that were embedded, a file for each batch

Embedding is what takes long, so that is what a killed run keeps. The new index is filled when every vector is there,
compared with what was given, and there for others only then; the folder beside it is removed last.
"""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch import files
from cxrsearch.device import Device
from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError, UsageError
from cxrsearch.report.progress import Progress
from cxrsearch.store import backup, is_url, new_store, open_store
from cxrsearch.store.address import parse_address
from cxrsearch.store.contract import IndexFacts, Point, VectorStore
from cxrsearch.store.images import StoredImages
from cxrsearch.text import clean
from cxrsearch.voting.nearness import learn

# Images embedded and kept at once: what a kill costs.
_BATCH = 64
_OF = "of.json"
log = logging.getLogger("cxrsearch")


@dataclass(frozen=True)
class Reembedded:
    """images: in the new index; kept: of them, embedded by a run before this one; thumbnails: of them, embedded from
    their thumbnail, as the original is away or has changed; left_out: images without either."""

    images: int
    kept: int
    thumbnails: int
    left_out: int


@dataclass(frozen=True)
class _Vector:
    digest: str
    original: bool
    vector: NDArray[np.float32]


def reembed(
    source: str, target: str, model: Path, skip_missing: bool = False, device: Device = Device.CPU
) -> Reembedded:
    """Make the index ``target`` of the images of ``source`` by another model.

    skip_missing: leave out images that have neither original nor thumbnail here; else they are an error. device: what
    embeds.
    Raises UsageError, InputError, IndexUnavailable, ModelError.
    """
    encoder = Encoder(model, device=device)
    card = encoder.card
    with open_store(source) as old:
        if old.facts.fingerprint == card.fingerprint:
            raise UsageError(f"{source}: is by model {card.name} already; cxrsearch copy copies it")
        folder = _journal(source, target)
        _claim(folder, {"source": source, "from": old.facts.fingerprint, "model": card.fingerprint})
        known = _kept(folder, card.dimensions)
        vectors, missing, kept = _embed(old, encoder, known, folder)
        if missing and not skip_missing:
            first = clean(str(missing[0].payload.get("path", missing[0].id)))
            raise InputError(
                f"{len(missing)} images have neither their original nor a thumbnail here, such as {first}. Bring the"
                f" originals back and run this again, or leave them out with --skip-missing. {len(vectors)} are kept."
            )
        facts = replace(
            old.facts,
            model=card.name,
            fingerprint=card.fingerprint,
            dimensions=card.dimensions,
            calibration=None,
            nearness=None,
        )
        images = _fill(old, target, facts, vectors)
    shutil.rmtree(folder)
    return Reembedded(images, kept, sum(not one.original for one in vectors.values()), len(missing))


def _journal(source: str, target: str) -> Path:
    """Beside the new index; of a server's, in the working folder. Raises UsageError for a place that is taken."""
    if is_url(target):
        return Path(f"{parse_address(target).collection}.reembedding")
    path = Path(target).resolve()
    if not target or path.is_file() or not path.name:
        raise UsageError(f"--to {target}: give a new folder, or a URL such as http://localhost:6333/chest")
    folder = path.with_name(f"{path.name}.reembedding")
    # What a run that was killed while it filled the index left there is the store's to clear.
    is_left = (folder / _OF).exists() and not (path / "index.json").exists()
    if path.exists() and any(path.iterdir()) and not is_left:
        raise UsageError(f"{target}: is there already; give a new index with --to")
    if not is_url(source) and path.is_relative_to(Path(source).resolve()):
        raise UsageError(f"{target}: lies in the index that it is made of; give a folder elsewhere with --to")
    return folder


def _claim(folder: Path, what: dict[str, str]) -> None:
    """Raises UsageError for the folder of another run."""
    path = folder / _OF
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    if path.exists():
        try:
            same = json.loads(path.read_text("utf-8")) == what
        except (OSError, ValueError):
            same = False
        if not same:
            raise UsageError(f"{folder}: was left by a run of another index or model; remove it, or give another --to")
    elif any(folder.iterdir()):
        raise UsageError(f"{folder}: holds other files; remove it, or give another --to")
    files.write(path, json.dumps(what, indent=2) + "\n", private=True)


def _kept(folder: Path, dimensions: int) -> dict[str, _Vector]:
    """What earlier runs embedded. A file that is damaged counts as not written."""
    found: dict[str, _Vector] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as parts:
                ids, digests, originals, vectors = (parts[n] for n in ("ids", "digests", "originals", "vectors"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink()
            continue
        if vectors.dtype == np.float32 and vectors.shape == (len(ids), dimensions) and len(digests) == len(ids):
            for id, digest, original, vector in zip(ids, digests, originals, vectors, strict=True):
                found[str(id)] = _Vector(str(digest), bool(original), vector)
    return found


def _embed(
    old: VectorStore, encoder: Encoder, known: dict[str, _Vector], folder: Path
) -> tuple[dict[str, _Vector], list[Point], int]:
    """The vector of every image by id, the images that have no picture here, and how many vectors were known."""
    images, vectors = StoredImages(old), dict[str, _Vector]()
    missing: list[Point] = []
    number = max((int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit()), default=0)
    points, kept = old.scroll(fields=["dataset", "path", "image_sha256", "frame"]), 0
    with Progress("embedding", old.count()) as progress:
        while batch := list(islice(points, _BATCH)):
            new: dict[str, tuple[str, bool, NDArray[np.float32]]] = {}
            for point in batch:
                digest = str(point.payload.get("image_sha256"))
                progress.advance()
                if (one := known.get(point.id)) is not None and one.digest == digest:
                    vectors[point.id], kept = one, kept + 1
                elif (image := images.read(point.id, point.payload)) is None:
                    missing.append(point)
                else:
                    new[point.id] = (digest, image.original, encoder.prepare(image.radiograph))
            if new:
                number += 1
                made = encoder.embed_prepared([square for _, _, square in new.values()])
                made_of = zip(new.items(), made, strict=True)
                own = {id: _Vector(digest, original, vector) for (id, (digest, original, _)), vector in made_of}
                _keep(folder / f"{number:06}.npz", own)
                vectors |= own
    return vectors, missing, kept


def _keep(path: Path, own: dict[str, _Vector]) -> None:
    with files.replacing(path, private=True) as draft, draft.open("wb") as file:
        np.savez(
            file,
            ids=np.array(list(own)),
            digests=np.array([one.digest for one in own.values()]),
            originals=np.array([one.original for one in own.values()]),
            vectors=np.stack([one.vector for one in own.values()]),
        )


def _fill(old: VectorStore, target: str, facts: IndexFacts, vectors: dict[str, _Vector]) -> int:
    def points() -> Iterator[Point]:
        for point in old.scroll():
            if point.id in vectors:
                yield replace(point, vector=vectors[point.id].vector)

    with new_store(target, facts) as new:
        count = backup.fill(new, backup.batches(points()), old.thumbnails.get, target)
        if (nearness := learn(new)) is not None:
            new.declare(replace(new.facts, nearness=nearness.as_json()))
    return count
