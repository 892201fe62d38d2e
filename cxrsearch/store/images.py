"""The picture of an indexed image: its original where that is there and unchanged, else its thumbnail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrsearch import settings
from cxrsearch.clinical.fields import Payload
from cxrsearch.clinical.identity import load_identity
from cxrsearch.errors import ImageError
from cxrsearch.imaging.canonical import canonical, grey
from cxrsearch.imaging.isolated import decode, read
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.store.contract import VectorStore

if TYPE_CHECKING:
    from PIL.Image import Image

# Pixels of the longer side. Twenty-one such pictures, with their maps, stay well below 5 MB.
SHOWN = 512


@dataclass(frozen=True)
class StoredImage:
    """``original``: from the file that was indexed; else from the thumbnail, which is smaller and lossy."""

    radiograph: Radiograph
    original: bool


@dataclass(frozen=True)
class HitImage:
    """Little to keep of a large file: the picture as the encoder sees it, canonical pixels (S, S) float32 in 0..1; the
    size it had; and as people are shown it, its longer side at most SHOWN."""

    canonical: NDArray[np.float32]
    width: int
    height: int
    shown: Image
    original: bool


class StoredImages:
    """The pictures of one open index. Without the pseudonym key no original can be known by its digest."""

    def __init__(self, store: VectorStore) -> None:
        self._datasets, self._thumbnails = store.facts.datasets, store.thumbnails
        self._identity = load_identity(settings.key_file())

    def read(self, id: str, payload: Payload) -> StoredImage | None:
        """None when neither the original nor a thumbnail can be read."""
        original = self._original(payload)
        return StoredImage(original, True) if original is not None else self.thumbnail(id)

    def hit_image(self, id: str, payload: Payload, size: int, quick: bool = False) -> HitImage | None:
        """The picture for an encoder of ``size`` pixels. ``quick``: the thumbnail where there is one."""
        picture = self.thumbnail_first(id, payload) if quick else self.read(id, payload)
        if picture is None:
            return None
        image = picture.radiograph
        square, shown = canonical(image, size), grey(image, SHOWN)
        return HitImage(square, image.width, image.height, shown, picture.original)

    def thumbnail_first(self, id: str, payload: Payload) -> StoredImage | None:
        """As :meth:`read`, the thumbnail first: for a search that looks through hundreds."""
        return self.thumbnail(id) or self.read(id, payload)

    def thumbnail(self, id: str) -> StoredImage | None:
        """The thumbnail."""
        data = self._thumbnails.get(id)
        try:
            return None if data is None else StoredImage(decode(data, "thumbnail")[0], False)
        except ImageError:
            return None

    def _original(self, payload: Payload) -> Radiograph | None:
        """Raises nothing: a file that was moved, changed or is on another machine is no error of the search."""
        dataset = self._datasets.get(str(payload.get("dataset")))
        if dataset is None or not dataset.root:
            return None
        root = Path(dataset.root)
        path = root / str(payload.get("path"))
        try:
            if not path.resolve().is_relative_to(root.resolve()):
                return None  # an index from a stranger names what it likes
            images = read(path)
            if self._identity is None or self._identity.file(images[0].sha256) != payload.get("image_sha256"):
                return None
            frame = int(str(payload.get("frame", 1)))
            return next(image for image in images if image.frame == frame)
        except (ImageError, OSError, ValueError, RuntimeError, StopIteration):  # RuntimeError: links in a circle
            return None
