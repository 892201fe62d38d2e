"""Pictures -> embeddings or features of a network or of a model folder, many at a time."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrsearch.encoder import Encoder
from cxrsearch.model_card import ModelCard, read_card
from trainer.learning.export import load_network
from trainer.learning.network import Network, pictures

# (N, S, S) uint8, as the encoder sees them -> (N, D) float32 of unit length.
Embedder = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
# Pictures that an encoder's file embeds at once.
_BATCH = 16


def embedder(model: Path) -> Embedder:
    """That of a model folder: by its network where it has one, else by its encoder's file. Raises ModelError."""
    if has_network(read_card(model)):
        return network_embedder(load_network(model))
    return partial(embed_by_file, Encoder(model))


def has_network(card: ModelCard) -> bool:
    """Whether a model folder has what its network is built again from, beside the encoder's file."""
    return "architecture" in card.described


def network_embedder(network: Network) -> Embedder:
    return partial(embed, network)


def embed_by_file(encoder: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, S, S) uint8 -> (N, D) float32 of unit length. Raises ModelError for an embedding of other than numbers."""
    grey = (pixels[start : start + _BATCH] / np.float32(255) for start in range(0, len(pixels), _BATCH))
    return np.concatenate([encoder.embed_prepared(list(batch)) for batch in grey])


def embed(network: Network, pixels: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """(N, S, S) uint8 -> (N, D) float32 of unit length."""
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with torch.inference_mode():
        found = [
            network(pictures(pixels[start : start + batch], device)).embedding.cpu().numpy()
            for start in range(0, len(pixels), batch)
        ]
    return np.concatenate(found)


def pooled_features(
    features: Callable[[Tensor], Tensor], pixels: NDArray[np.uint8], batch: int = 64
) -> NDArray[np.float32]:
    """(N, S, S) uint8 -> (N, C) float32: the mean over the places of ``features``, a method of a network in eval mode
    on the CPU: (B, 1, S, S) -> (B, C, h, w)."""
    with torch.inference_mode():
        found = [
            features(pictures(pixels[start : start + batch], torch.device("cpu"))).mean(dim=(2, 3)).numpy()
            for start in range(0, len(pixels), batch)
        ]
    return np.concatenate(found)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step: without this a fifth of a CPU step is page faults.

    M_MMAP_MAX and M_TRIM_THRESHOLD of mallopt(3); another C library than glibc is left as it is.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)
