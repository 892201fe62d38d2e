"""The images of a configuration once more, as an encoder sees them that wants another size or another resizing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import ImageError, InputError
from cxrsearch.model_card import InputFormat, read_card
from trainer.config import Config, imported_folder
from trainer.data.images import Images
from trainer.data.training_set import datasets_of, read_files


def as_seen(config: Config, images: Images, taken: InputFormat) -> Images:
    """The images with the pixels of an encoder that takes ``taken``. Raises InputError."""
    if (taken.size, taken.resizing) == (images.pixels.shape[1], images.resizing):
        return images
    pixels = np.zeros((len(images), taken.size, taken.size), dtype=np.uint8)
    for number, square in squares(config, images, taken):
        pixels[number] = square
    return replace(images, pixels=pixels, resizing=taken.resizing)


def as_learnt(config: Config, images: Images) -> Images:
    """The images as the network sees them that a configuration trains. Raises InputError, ModelError."""
    folder = imported_folder(config)
    return images if folder is None else as_seen(config, images, read_card(folder).input)


def squares(config: Config, images: Images, taken: InputFormat) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The number of each image, and what an encoder that takes ``taken`` sees of it, (S, S) uint8; in whatever order.

    Files are read again where their pixels are not in memory. Raises InputError where one has changed meanwhile.
    """
    if (taken.size, taken.resizing) == (images.pixels.shape[1], images.resizing):
        yield from enumerate(images.pixels)
        return
    identities = zip(images.datasets, images.keys, images.frames.tolist(), strict=True)
    numbers = {identity: number for number, identity in enumerate(identities)}
    files = set(zip(images.datasets, images.keys, strict=True))
    left = len(images)
    for data in datasets_of(config):
        name = data.mapping.name
        wanted = (record for record in data.records() if (name, record.key) in files)
        for task, outcome in read_files(data, wanted, taken.size, taken.resizing):
            made = [] if isinstance(outcome, ImageError) else outcome.images or []
            for frame, image in enumerate(made):
                number = numbers.get((name, task.record.key, frame))
                if number is not None and outcome.sha256 == images.digests[number]:  # type: ignore[union-attr]
                    left -= 1
                    yield number, np.asarray(image.array, dtype=np.uint8)
    if left:
        raise InputError(f"{config.name}: {left} images have changed or gone while they were read; run it again")
