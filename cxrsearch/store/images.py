"""The picture of an indexed image: its original where that is there and unchanged, else its thumbnail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cxrsearch.clinical.fields import Payload
from cxrsearch.errors import ImageError
from cxrsearch.imaging.canonical import canonical, grey
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.read import decode, digest, read_bytes
from cxrsearch.store.contract import VectorStore

if TYPE_CHECKING:
    from PIL.Image import Image

# Pixels of the longer side. Twenty-one such pictures, with their maps, stay well below 5 MB.
SHOWN = 512


@dataclass(frozen=True)
class Picture:
    """``original``: from the file that was indexed; else from the thumbnail, which is smaller and lossy."""

    image: Radiograph
    original: bool


@dataclass(frozen=True)
class Seen:
    """Little to keep of a large file: the picture as the encoder sees it, canonical pixels (S, S) float32 in 0..1; the
    size it had; and as people are shown it, its longer side at most SHOWN."""

    canonical: NDArray[np.float32]
    width: int
    height: int
    shown: Image
    original: bool


class Pictures:
    """The pictures of one open index."""

    def __init__(self, store: VectorStore) -> None:
        self._datasets, self._thumbnails = store.facts.datasets, store.thumbnails

    def of(self, id: str, payload: Payload) -> Picture | None:
        """None when neither the original nor a thumbnail can be read."""
        original = self._original(payload)
        return Picture(original, True) if original is not None else self.small(id)

    def seen(self, id: str, payload: Payload, size: int, quick: bool = False) -> Seen | None:
        """The picture for an encoder of ``size`` pixels. ``quick``: the thumbnail where there is one."""
        picture = self.quick(id, payload) if quick else self.of(id, payload)
        if picture is None:
            return None
        image = picture.image
        square, shown = canonical(image, size), grey(image, SHOWN)
        return Seen(square, image.width, image.height, shown, picture.original)

    def quick(self, id: str, payload: Payload) -> Picture | None:
        """As :meth:`of`, the thumbnail first: for a search that looks through hundreds."""
        return self.small(id) or self.of(id, payload)

    def small(self, id: str) -> Picture | None:
        """The thumbnail."""
        data = self._thumbnails.get(id)
        try:
            return None if data is None else Picture(decode(data, "thumbnail")[0], False)
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
            data = read_bytes(path)
            if digest(data) != payload.get("image_sha256"):
                return None
            frame = int(str(payload.get("frame", 1)))
            return next(image for image in decode(data, path.name) if image.frame == frame)
        except (ImageError, OSError, ValueError, RuntimeError, StopIteration):  # RuntimeError: links in a circle
            return None
