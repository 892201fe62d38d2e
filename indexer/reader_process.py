"""What a reader process does: reads files, makes each image the square that the encoder takes, embeds them at once.

It is given paths, and answers in JSON and arrays (cxrsearch/imaging/isolated.py).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.encoder import SECONDS_PER_PICTURE, Encoder
from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.canonical import PICTURE_SIDE, canonical, grey, jpeg, pixel_digest, prepared
from cxrsearch.imaging.isolated import SECONDS_PER_FILE
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.read import decode, digest, read_bytes
from cxrsearch.store.thumbnails import SIDE
from indexer.readers import ReaderConfig, ReadFile, Wanted


def work(config: ReaderConfig) -> Callable[[list[Wanted]], Iterator[tuple[dict[str, Any], list[Any]]]]:
    """Reads and embeds chunks: one answer for each file, once it is read, and one more for each embedded file."""
    model = config.model
    encoder = None if isinstance(model, int) else Encoder(model, threads=1)

    def prepare(radiograph: Radiograph, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        if encoder is not None:
            return encoder.prepare(radiograph, picture)
        assert isinstance(model, int)
        return prepared(radiograph, picture, model, config.resizing)

    def answer(asked: list[Wanted]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        files: list[_Small] = []
        for number, wanted in enumerate(asked):
            try:
                found = _read_file(wanted, number, config, prepare)
            except ImageError as error:
                yield {"reason": str(error.reason), "message": str(error)}, []
                continue
            except MemoryError:
                raise
            except Exception as error:  # a bug of ours, and no reason to leave out the other files
                what = f"{wanted.label}: the reader failed, which is a bug of ours ({type(error).__name__})"
                yield {"reason": str(Reason.READER_DIED), "message": what}, []
                continue
            if isinstance(found, _Small):
                files.append(found)
                yield {"embedding": True}, []
            else:
                yield {"embedding": False, "sha256": found.sha256, "size": found.size, "header": dict(found.header)}, []
        pictures = [picture for file in files for picture in file.pictures]
        if not pictures:
            return
        signal.alarm(SECONDS_PER_PICTURE * len(pictures) + SECONDS_PER_FILE)  # this answer takes a batch
        if encoder is None:
            arrays = iter(np.rint(np.stack(pictures) * 255).astype(np.uint8))
        else:
            arrays = iter(encoder.embed_prepared(pictures) if config.embeds else np.stack(pictures))
        for file in files:
            yield file.answer([next(arrays) for _ in file.pictures])

    return answer


@dataclass(frozen=True)
class _Small:
    """A file between reading and embedding: nothing of the size of its pictures is kept.

    number: of the file in its chunk. sizes: of each image its width, height and projection.
    """

    number: int
    sha256: str
    size: int
    header: Mapping[str, str]
    sizes: list[tuple[int, int, str | None]]
    pictures: list[NDArray[np.float32]]
    digests: list[str]
    thumbnails: list[bytes | None]

    def answer(self, arrays: list[NDArray[Any]]) -> tuple[dict[str, Any], list[Any]]:
        images, contents = [], []
        for size, array, picture, thumbnail in zip(self.sizes, arrays, self.digests, self.thumbnails, strict=True):
            shape = [str(array.dtype), list(array.shape)]
            images.append([*size, picture, *shape, thumbnail is not None])
            contents += [np.ascontiguousarray(array), *([] if thumbnail is None else [thumbnail])]
        facts = {"file": self.number, "sha256": self.sha256, "size": self.size, "header": dict(self.header)}
        return facts | {"images": images}, contents


def _read_file(
    wanted: Wanted,
    number: int,
    config: ReaderConfig,
    prepare: Callable[[Radiograph, NDArray[np.float32]], NDArray[np.float32]],
) -> _Small | ReadFile:
    data = read_bytes(wanted.path, wanted.label)
    sha256 = digest(data)
    images = decode(data, wanted.label, config.keywords, config.gates)
    if wanted.header_only:
        return ReadFile(sha256, None, len(data), images[0].header)
    sizes = [(image.width, image.height, image.projection) for image in images]
    squares = [canonical(image, PICTURE_SIDE) for image in images]
    pictures = [prepare(image, square) for image, square in zip(images, squares, strict=True)]
    digests = [pixel_digest(square) for square in squares]
    thumbnails = [jpeg(grey(image, SIDE)) if config.thumbnails else None for image in images]
    return _Small(number, sha256, len(data), images[0].header, sizes, pictures, digests, thumbnails)
