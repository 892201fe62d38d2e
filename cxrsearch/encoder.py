"""A model folder -> embeddings, by ONNX Runtime; no torch needed.

MODEL/model.json            the card: what the encoder takes and gives, checksums, what it was trained on, its figures
MODEL/encoder.onnx          what runs here
MODEL/text.onnx             what text_encoder.py runs, where the model has one
MODEL/weights.safetensors   for going on training, where it was trained here
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsearch.device import Device
from cxrsearch.errors import ArrayError, InputError, ModelError, WrongTypeError
from cxrsearch.imaging.canonical import canonical, prepared
from cxrsearch.imaging.isolated import read
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.model_card import Pooling, find_model, read_card, read_file
from cxrsearch.onnx_session import Session, fits

# The largest encoder that anybody would index with takes two on one slow core.
SECONDS_PER_PICTURE = 60
# Pictures that the public face embeds at once.
_BATCH = 16


@dataclass(frozen=True)
class Encoded:
    """embedding (B, D), unit length; places (B, D, h, w), summing to the embedding over (h, w);
    attention (B, h, w), summing to one over the places. All float32."""

    embedding: NDArray[np.float32]
    places: NDArray[np.float32]
    attention: NDArray[np.float32]


class Encoder:
    """The encoder of a model: the name of one that is installed, or its folder.

    encoder = cxrsearch.Encoder("cxr-1")
    embeddings = encoder.embed(["a.dcm", array])
    """

    def __init__(
        self, model: str | Path | None = None, threads: int | None = None, device: Device = Device.CPU
    ) -> None:
        """Raises ModelError when it is no model or its checksum is wrong, InputError where the device cannot be used.

        threads: cores used for one batch; all by default. device: what computes.
        """
        folder = find_model(model)
        self.card = read_card(folder)
        file = folder / "encoder.onnx"
        self._session = Session(read_file(self.card, file), str(file), threads, device)
        wanted = {self.card.output, *(("places", "attention") if self.card.has_places else ())}
        taken, inputs = self.card.input, self._session.inputs
        if not fits(inputs, (taken.channels, taken.size, taken.size)) or not wanted <= self._session.outputs.keys():
            raise ModelError(f"{file}: not what its card says (other inputs or outputs)")
        self._input, self._one_by_one = inputs[0].name, inputs[0].shape[0] == 1

    def prepare(self, radiograph: Radiograph, picture: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The square that this encoder sees of a radiograph: (S, S) float32 in 0..1.

        picture: the canonical one of PICTURE_SIDE, where it is made already.
        """
        size, resizing = self.card.input.size, self.card.input.resizing
        if picture is None:
            return canonical(radiograph, size, resizing)
        return prepared(radiograph, picture, size, resizing)

    def embed(self, images: Iterable[str | Path | NDArray[np.generic]]) -> NDArray[np.float32]:
        """The embeddings of images: (N, D) float32, each of unit length, in their order.

        images: files (DICOM, PNG, JPEG, ...), and arrays (H, W) of grey values: floats in 0..1, black to white, or
        whole numbers (uint8, uint16) in their type's range. Each is made square as the model wants it.

        Raises ImageError for a file or an array that gives no radiograph, InputError for a file of several images,
        UsageError for what is no list.
        """
        flat = isinstance(images, np.ndarray) and images.ndim < 3 and images.dtype.kind in "fuib"
        if flat or isinstance(images, str | bytes | os.PathLike | Mapping) or not isinstance(images, Iterable):
            raise WrongTypeError("images", "a list of files or arrays, also of one: [image]", images)
        images = list(images)
        batches = [
            self.embed_prepared([self._square(one, start + n) for n, one in enumerate(images[start : start + _BATCH])])
            for start in range(0, len(images), _BATCH)
        ]
        return np.concatenate(batches) if batches else np.empty((0, self.card.dimensions), dtype=np.float32)

    def embed_prepared(self, pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(B, D) float32, unit length. ``pictures``: squares that :meth:`prepare` gave, each (S, S) float32 in 0..1."""
        found = self.pooled(pictures)
        if found.shape != (len(pictures), self.card.dimensions) or not np.isfinite(found).all():
            raise ModelError(f"model {self.card.name}: gives no vectors of {self.card.dimensions} numbers")
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), dtype=np.float32)

    def pooled(self, pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """As :meth:`embed_prepared`, of any length. Raises ModelError for an output that the card's pooling is not
        for."""
        (found,) = self._run([self.card.output], pictures)
        pooling = self.card.pooling
        axes = {Pooling.NONE: 2, Pooling.MEAN_PLACES: 4, Pooling.FIRST_TOKEN: 3, Pooling.MEAN_TOKENS: 3}
        if found.ndim != axes[pooling]:
            what = f"gives an array of {found.ndim} axes, which pooling {pooling} is not for"
            raise ModelError(f"model {self.card.name}: {what}")
        match pooling:
            case Pooling.MEAN_PLACES:
                found = found.mean(axis=(2, 3))
            case Pooling.FIRST_TOKEN:
                found = found[:, 0]
            case Pooling.MEAN_TOKENS:
                found = found.mean(axis=1)
        return found

    def encode(self, pictures: Sequence[NDArray[np.float32]]) -> Encoded:
        """As :meth:`embed_prepared`, with the places that the embedding is the sum of. Only where the card has them."""
        return Encoded(*self._run([self.card.output, "places", "attention"], pictures))

    def _square(self, image: str | Path | NDArray[np.generic], number: int) -> NDArray[np.float32]:
        if isinstance(image, str | Path):
            found = read(Path(image))
            if len(found) != 1:
                raise InputError(f"{image}: holds {len(found)} images; give each as an array")
            return self.prepare(found[0])
        wanted = "give (H, W) of floats or unsigned integers"
        try:
            array = np.asarray(image)
        except (ValueError, TypeError):  # rows of several lengths, among others
            raise ArrayError(f"image {number}: no array; {wanted}") from None
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fu":
            raise ArrayError(f"image {number}: an array of shape {array.shape} and type {array.dtype}; {wanted}")
        whole = array.astype(np.float32) / (np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1)
        if not np.isfinite(whole).all() or whole.min() < 0 or whole.max() > 1:
            raise ArrayError(f"image {number}: floats have to be in 0..1, black to white")
        return self.prepare(Radiograph(whole.astype(np.float32), "", "array"))

    def _run(self, wanted: list[str], pictures: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Raises ModelError when it takes too long: an encoder is somebody else's program."""
        batch = self.batch(pictures)
        parts = [batch[n : n + 1] for n in range(len(batch))] if self._one_by_one else [batch]
        return self._session.run(wanted, [{self._input: part} for part in parts], SECONDS_PER_PICTURE * len(pictures))

    def batch(self, pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(B, channels, S, S) float32, as the encoder's file takes it."""
        taken = self.card.input
        grey = np.stack(pictures)[:, None] * np.float32(taken.high - taken.low) + np.float32(taken.low)
        mean, deviation = (np.array(one, np.float32)[None, :, None, None] for one in (taken.mean, taken.deviation))
        return np.asarray((grey - mean) / deviation, dtype=np.float32)
