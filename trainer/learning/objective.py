"""What learning minimises: losses and miners of pytorch-metric-learning, and how the warm-up joins them.

Multi-similarity loss with its miner (Wang et al., CVPR 2019, arXiv 1904.06627; used by Zhong et al. 2021), constants
of our own choice. From random weights it may collapse when alone, so normalised softmax (Zhai and Wu, BMVC 2019,
arXiv 1811.12649) comes before it and stays beside it. Without labels: NT-Xent over two views of each image
(SimCLR, Chen et al., ICML 2020, arXiv 2002.05709).
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.losses import (
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    NTXentLoss,
    SelfSupervisedLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper
from torch import Tensor, nn

from trainer.config import LearningSettings

ALPHA, BETA, BASE = 2.0, 50.0, 0.5
MINER_EPSILON = 0.1
TRIPLET_MARGIN = 0.2
SOFTMAX_TEMPERATURE = 0.1
VIEWS_TEMPERATURE = 0.2


class Objective(nn.Module):
    """(B, D) embeddings of unit length and (B,) class numbers -> the loss, a scalar.

    On several GPUs each sees the embeddings of all.
    """

    def __init__(self, learning: LearningSettings, classes: int, dimensions: int) -> None:
        super().__init__()
        self.learning = learning
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.softmax: nn.Module = NormalizedSoftmaxLoss(classes, dimensions, temperature=SOFTMAX_TEMPERATURE)
        self.pairs: nn.Module | None = None
        self.miner: nn.Module | None = None
        if learning.objective == "multi-similarity":
            self.pairs = MultiSimilarityLoss(ALPHA, BETA, BASE)
            self.miner = MultiSimilarityMiner(MINER_EPSILON) if learning.miner else None
        elif learning.objective == "triplet":
            self.pairs = TripletMarginLoss(TRIPLET_MARGIN)
            self.miner = TripletMarginMiner(TRIPLET_MARGIN, "semihard") if learning.miner else None
        if several:
            self.softmax = DistributedLossWrapper(self.softmax)
            self.pairs = None if self.pairs is None else DistributedLossWrapper(self.pairs)
            self.miner = None if self.miner is None else DistributedMinerWrapper(self.miner)

    def forward(self, embedding: Tensor, labels: Tensor, done: float) -> Tensor:
        """``done``: the part of the epochs that are over, 0..1."""
        kind, warm = self.learning.warm_up, done >= self.learning.warm_up_part
        if self.pairs is None or (kind != "none" and not warm):
            loss: Tensor = self.softmax(embedding, labels)
            return loss
        mined = None if self.miner is None else self.miner(embedding, labels)
        pairs: Tensor = self.pairs(embedding, labels, mined)
        if kind == "beside":
            pairs = self.softmax(embedding, labels) + self.learning.objective_weight * pairs
        return pairs


class Views(nn.Module):
    """(B, D) embeddings of one view of each image and (B, D) of another -> the loss, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = SelfSupervisedLoss(NTXentLoss(VIEWS_TEMPERATURE))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        loss: Tensor = self.loss(first, second)
        return loss
