"""What computes embeddings."""

from enum import StrEnum


class Device(StrEnum):
    """The processor, or a GPU of Nvidia's."""

    CPU = "cpu"
    CUDA = "cuda"
