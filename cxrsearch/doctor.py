"""Is what a search needs there, and does it work: every check tries the thing itself."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np

from cxrsearch import __version__, settings
from cxrsearch.clinical.identity import load_identity
from cxrsearch.device import Device
from cxrsearch.encoder import Encoder
from cxrsearch.errors import CxrSearchError
from cxrsearch.settings.sources import Settings
from cxrsearch.store import is_url, open_store
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.graph import is_large, words
from cxrsearch.store.images import StoredImages
from cxrsearch.text import clean
from cxrsearch.voting.calibration import Calibration

_PACKAGES = ("numpy", "pydicom", "qdrant-client", "qdrant-edge-py")
# Compressed transfer syntaxes that archives hold (PS3.5 Annex A.4), and the plugin that reads each here.
_DECODERS = {
    "JPEG baseline, extended, lossless": "imagecodecs",
    "JPEG-LS": "pyjpegls",
    "JPEG 2000": "pylibjpeg-openjpeg",
}
_LITTLE_SPACE = 2**30
_SAMPLED = 50  # images whose pictures are looked for
_ITSELF = 0.98  # the least similarity of an image to itself, read from a thumbnail
_CHANGED = 0.2  # more or fewer images than this since the calibration, as a part: it is out of date


class State(StrEnum):
    FINE = "ok"
    NOTE = "note"
    FAILS = "FAILS"


@dataclass(frozen=True)
class Check:
    what: str
    found: str
    state: State = State.FINE
    to_do: str = ""


def run(model: str | Path | None, index: str | None) -> list[Check]:
    """Every check; a failing one does not keep the others from being made."""
    checks = [_versions(), _decoders(), _try("settings", _settings), _try("pseudonym key", _key)]
    encoder: Encoder | None = None
    try:
        encoder = Encoder(model)
        checks += [_encoder(encoder), _gpu(model)]
    except CxrSearchError as error:
        checks.append(Check("model", str(error), State.FAILS, "give another with --model, or install cxrsearch again"))
    checks.append(_space("disk, temporary files", Path(tempfile.gettempdir())))
    if index is None:
        return [*checks, Check("index", "none was named", State.NOTE, "cxrsearch doctor --index PATH looks at one")]
    try:
        with open_store(index) as store:
            checks += _index(store, index, encoder)
    except CxrSearchError as error:
        checks.append(Check("index", str(error), State.FAILS, "see the sentence itself"))
    return checks


def _versions() -> Check:
    import onnxruntime  # whose package has another name where it is built for a GPU

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    versions += f", onnxruntime {onnxruntime.__version__}"
    return Check("versions", f"cxrsearch {__version__}, {versions}")


def _decoders() -> Check:
    missing = [f"{syntax} ({package})" for syntax, package in _DECODERS.items() if not _installed(package)]
    if missing:
        return Check("DICOM decoders", f"missing: {', '.join(missing)}", State.FAILS, "install cxrsearch again")
    return Check("DICOM decoders", ", ".join(_DECODERS))


def _gpu(model: str | Path | None) -> Check:
    """Whether CUDA embeds, which being listed does not say."""
    try:
        encoder = Encoder(model, device=Device.CUDA)
        picture = np.zeros((encoder.card.image_size,) * 2, dtype=np.float32)
        encoder.embed_prepared([picture])  # the first takes what is prepared for all
        started = time.monotonic()
        encoder.embed_prepared([picture])
    except CxrSearchError as error:
        return Check("GPU", f"none; the processor embeds ({error})", State.NOTE, "only for index --device cuda")
    return Check("GPU", f"CUDA embeds, {1000 * (time.monotonic() - started):.0f} ms an image; index --device cuda")


def _settings() -> Check:
    sources = {name: settings.given(name).source for name in Settings.model_fields}
    named = [f"{name} from {source}" for name, source in sources.items() if source is not None]
    return Check("settings", ", ".join(named) or "none is set")


def _key() -> Check:
    path = settings.key_file()
    if load_identity(path) is None:
        return Check("pseudonym key", f"none yet ({path})", State.NOTE, "indexing makes one; keep a copy of it")
    return Check("pseudonym key", str(path))


def _encoder(encoder: Encoder) -> Check:
    size, card = encoder.card.image_size, encoder.card
    picture = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size)
    started = time.monotonic()
    embedding = encoder.embed_prepared([picture])
    seconds = time.monotonic() - started
    found = f"{card.name} ({card.fingerprint[:12]}), {1000 * seconds:.0f} ms an image on {os.cpu_count()} cores"
    if card.has_places and not np.allclose(encoder.encode([picture]).places.sum(axis=(2, 3)), embedding, atol=1e-4):
        return Check("model", f"{found}; its places do not add up", State.FAILS, "get the model folder again")
    return Check("model", found)


def _index(store: VectorStore, address: str, encoder: Encoder | None) -> Iterator[Check]:
    kept = store.replication()  # first: where shards are dead, nothing else can be asked
    if kept is not None:
        yield Check("cluster", kept.words())
        fails = not all(kept.shards.values())
        for found, to_do in kept.problems():
            yield Check("cluster", found, State.FAILS if fails else State.NOTE, to_do)
    facts, images = store.facts, store.count()
    yield Check("index", f"{images} images, {len(facts.fields)} fields, {', '.join(facts.datasets)}")
    if not is_url(address):
        yield _space("disk, index", Path(address))
    if encoder is not None:
        same = facts.fingerprint == encoder.card.fingerprint
        yield Check(
            "model of the index",
            facts.model,
            State.FINE if same else State.FAILS,
            "" if same else "give that model with --model, or cxrsearch reembed",
        )
        if same and images:
            yield _query(store, encoder)
    yield _graph(store, images)
    yield _pictures(store)
    yield _try("calibration", lambda: _calibration(store, images))


def _query(store: VectorStore, encoder: Encoder) -> Check:
    """One real search: a picture of an indexed image has to find that image."""
    images, started = StoredImages(store), time.monotonic()
    for point in islice(store.scroll(), _SAMPLED):
        image = images.read(point.id, point.payload)
        if image is None:
            continue
        found = store.query(encoder.embed_prepared([encoder.prepare(image.radiograph)])[0], 1)
        seconds = time.monotonic() - started
        if found[0].score < _ITSELF:
            return Check("one query", "an image does not find itself", State.FAILS, "index again, or restore a backup")
        return Check("one query", f"an image found itself in {1000 * seconds:.0f} ms, reading included")
    return Check("one query", "no picture is here to ask with", State.NOTE, "ask with one: cxrsearch search IMAGE")


def _graph(store: VectorStore, images: int) -> Check:
    """How neighbours are found, and whether what was measured of it is still of this index."""
    graph, dimensions = store.facts.graph, store.facts.dimensions
    is_due = is_large(images, dimensions) if graph is None else not graph.is_of(images)
    found = clean(words(graph, images, dimensions))
    return Check("search", found, *((State.NOTE, "index again: its end measures anew") if is_due else ()))


def _pictures(store: VectorStore) -> Check:
    images = StoredImages(store)
    sampled = list(islice(store.scroll(), _SAMPLED))
    found = [images.read(point.id, point.payload) for point in sampled]
    originals = sum(picture is not None and picture.original for picture in found)
    small = sum(picture is not None and not picture.original for picture in found)
    words = f"of {len(sampled)} images {originals} originals and {small} thumbnails are here"
    if originals + small < len(sampled):
        return Check("pictures", words, State.NOTE, "put the originals back where they were, or index again")
    return Check("pictures", words)


def _calibration(store: VectorStore, images: int) -> Check:
    calibration = Calibration.from_json(store.facts.calibration)
    again = "cxrsearch calibrate --index ..."
    if calibration is None:
        return Check("calibration", "none: votes give no probability", State.NOTE, again)
    if abs(images - calibration.images) > _CHANGED * calibration.images:
        return Check("calibration", f"of {calibration.images} images, now {images}", State.NOTE, again)
    return Check("calibration", f"of {calibration.made}, {len(calibration.fields)} fields")


def _space(what: str, folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    state = State.NOTE if free < _LITTLE_SPACE else State.FINE
    return Check(what, f"{free / 2**30:.1f} GiB free", state, "make room" if state is State.NOTE else "")


def _try(what: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except CxrSearchError as error:
        return Check(what, str(error), State.FAILS, "see the sentence itself")


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
