"""What learning minimises: losses of pytorch-metric-learning over what is known of each image, and the warm-up.

An image has several findings, and its dataset knows only some of them. Multi-similarity loss with its miner (Wang et
al., CVPR 2019, arXiv 1904.06627; used by Zhong et al. 2021), constants of our own choice, takes for alike two images
that share a finding, and for unlike two images of one source of which each is known to have none of the other's
findings; other pairs say nothing. A classifier of the findings, binary cross-entropy where they are known, comes
before it and stays beside it: alone it may collapse. Distillation of neighbourhoods (after Passalis and Tefas, ECCV
2018, and Park et al., CVPR 2019, arXiv 1904.05068) keeps images near that were near to the pretrained trunk. Without
labels: NT-Xent over two views of each image (SimCLR, Chen et al., ICML 2020, arXiv 2002.05709).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss, NTXentLoss, SelfSupervisedLoss, TripletMarginLoss
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import LearningSettings

ALPHA, BETA, BASE = 2.0, 50.0, 0.5
MINER_EPSILON = 0.1
TRIPLET_MARGIN = 0.2
# Logits of the classifier are this many times a cosine when learning begins.
SHARPNESS = 8.0
DISTILLATION_TEMPERATURE = 0.1
VIEWS_TEMPERATURE = 0.2


@dataclass(frozen=True)
class Known:
    """What is known of B images.

    findings: (B, C) int8, 1 present, 0 absent, -1 not known.
    sources: (B,) int64, the hospital or collection each comes from.
    start: (B, D) float32, their embeddings before learning, to be kept near; None where nothing was pretrained.
    """

    findings: Tensor
    sources: Tensor
    start: Tensor | None = None


class Objective(nn.Module):
    """(B, D) embeddings of unit length and what is known of them -> the loss, a scalar.

    On several GPUs each sees the embeddings of all.
    """

    rarity: Tensor

    def __init__(self, learning: LearningSettings, findings: Tensor, dimensions: int) -> None:
        """findings: (N, C) int8 of all images that will be learnt from, which say how rare each is."""
        super().__init__()
        self.learning = learning
        present, absent = ((findings == value).sum(dim=0).float() for value in (1, 0))
        share = ((present + 1) / (present + absent + 2)).clamp(0.01, 0.99)
        self.classes = nn.Parameter(functional.normalize(torch.randn(findings.shape[1], dimensions), dim=1))
        self.sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.bias = nn.Parameter(torch.log(share / (1 - share)))
        # The square root: a finding of one image in a hundred counts ten times, not a hundred times.
        self.register_buffer("rarity", ((absent + 1) / (present + 1)).sqrt().clamp(1.0, 10.0))
        self.pairs: nn.Module | None = None
        if learning.objective == "multi-similarity":
            self.pairs = MultiSimilarityLoss(ALPHA, BETA, BASE)
        elif learning.objective == "triplet":
            self.pairs = TripletMarginLoss(TRIPLET_MARGIN)

    def forward(self, embedding: Tensor, known: Known, done: float) -> Tensor:
        """``done``: the part of the epochs that are over, 0..1."""
        embedding, known, processes = _of_all_processes(embedding, known)
        kind, warm = self.learning.warm_up, done >= self.learning.warm_up_part
        alone = self.pairs is None or (kind != "none" and not warm)
        loss = self._classified(embedding, known) if alone or kind == "beside" else embedding.sum() * 0
        if not alone:
            loss = loss + (self.learning.objective_weight if kind == "beside" else 1.0) * self._paired(embedding, known)
        if self.learning.distillation and known.start is not None:
            loss = loss + self.learning.distillation * _distance_from_start(embedding, known.start)
        return loss * processes

    def _classified(self, embedding: Tensor, known: Known) -> Tensor:
        logits = self.sharpness.exp() * embedding @ functional.normalize(self.classes, dim=1).T + self.bias
        is_known = (known.findings >= 0).float()
        each = functional.binary_cross_entropy_with_logits(
            logits, (known.findings == 1).float(), reduction="none", pos_weight=self.rarity
        )
        return (each * is_known).sum() / is_known.sum().clamp_min(1)

    def _paired(self, embedding: Tensor, known: Known) -> Tensor:
        alike, unlike = pairs_of(known)
        if self.learning.objective == "multi-similarity" and self.learning.miner:
            alike, unlike = hard_pairs(embedding.detach(), alike, unlike)
        loss: Tensor = self.pairs(embedding, None, (*alike.nonzero(as_tuple=True), *unlike.nonzero(as_tuple=True)))  # type: ignore[misc]
        return loss


class Views(nn.Module):
    """(B, D) embeddings of one view of each image and (B, D) of another -> the loss, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = SelfSupervisedLoss(NTXentLoss(VIEWS_TEMPERATURE))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        loss: Tensor = self.loss(first, second)
        return loss


def pairs_of(known: Known) -> tuple[Tensor, Tensor]:
    """(B, B) bool each: which images share a finding, and which of one source are known to share none.

    An image without any finding that is known to be present is in no pair. Images of different sources are never
    unlike: else it would be enough to tell hospitals apart.
    """
    present, absent = (known.findings == 1).float(), (known.findings == 0).float()
    alike = (present @ present.T) > 0
    alike.fill_diagonal_(False)
    count = present.sum(dim=1)
    missing = present @ absent.T  # how many of the first's findings the second is known not to have
    apart = (missing == count[:, None]) & (count[:, None] > 0)
    return alike, apart & apart.T & (known.sources[:, None] == known.sources[None, :])


def hard_pairs(embedding: Tensor, alike: Tensor, unlike: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs that the multi-similarity miner keeps (Wang et al. 2019, section 4.1): unlike images nearer than the
    farthest that is alike, and alike ones farther than the nearest that is not, each with a margin."""
    similarity = embedding @ embedding.T
    farthest = similarity.masked_fill(~alike, math.inf).amin(dim=1, keepdim=True)
    nearest = similarity.masked_fill(~unlike, -math.inf).amax(dim=1, keepdim=True)
    return alike & (similarity - MINER_EPSILON < nearest), unlike & (similarity + MINER_EPSILON > farthest)


def _distance_from_start(embedding: Tensor, start: Tensor) -> Tensor:
    """Kullback-Leibler divergence between what is near to each image now and what was, as softmax of similarities."""
    itself = torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
    now, before = (
        (vectors @ vectors.T / DISTILLATION_TEMPERATURE).masked_fill(itself, -1e4).log_softmax(dim=1)
        for vectors in (embedding, start)
    )
    return functional.kl_div(now, before, reduction="batchmean", log_target=True)


def _of_all_processes(embedding: Tensor, known: Known) -> tuple[Tensor, Known, int]:
    """The embeddings and facts of every process, this one's embeddings with their gradient; how many processes.

    The loss of all is the same in each, whose gradients are then averaged: hence the factor.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return embedding, known, 1
    embeddings = _gathered(embedding.detach())
    embeddings[torch.distributed.get_rank()] = embedding
    start = None if known.start is None else torch.cat(_gathered(known.start))
    facts = Known(torch.cat(_gathered(known.findings)), torch.cat(_gathered(known.sources)), start)
    return torch.cat(embeddings), facts, len(embeddings)


def _gathered(mine: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, mine.contiguous())
    return parts
