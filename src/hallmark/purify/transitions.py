"""Step 2 of DataElixir: how the suspect model's labels change along an image's trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.models import Network
from hallmark.runtime import Runtime


def predict_candidates(network: Network, candidates: Tensor, runtime: Runtime) -> Tensor:
    """int64 labels ``[N, M]`` that ``network`` gives the candidates, uint8 ``[N, M, C, H, W]``."""
    n, m = candidates.shape[:2]
    return models.logits(network, candidates.flatten(0, 1), runtime).argmax(1).view(n, m)


@dataclass(frozen=True)
class Transitions:
    """Which candidates of each image count, by the transition rule.

    Attributes:
        labels: int64 ``[N, 1 + M]``, the suspect model's labels of the raw image and its intermediates.
        kept: bool ``[N, 1 + M]``; the raw image (column 0) is always kept.
        majority: int64 ``[N]``, the commonest label of the intermediates, the smallest if tied.
    """

    labels: Tensor
    kept: Tensor
    majority: Tensor

    @property
    def unanimous(self) -> Tensor:
        """bool ``[N]``: all kept labels, the raw image's included, are equal."""
        return ((self.labels == self.labels[:, :1]) | ~self.kept).all(1)

    @property
    def intermediates_agree(self) -> Tensor:
        """bool ``[N]``: the kept intermediates have one label."""
        return ((self.labels[:, 1:] == self.majority[:, None]) | ~self.kept[:, 1:]).all(1)

    @property
    def flip_rate(self) -> Tensor:
        """float ``[N]``: share of the intermediates whose label is not the raw image's."""
        return (self.labels[:, 1:] != self.labels[:, :1]).float().mean(1)


def transition_rule(labels: Tensor, classes: int, tau: int) -> Transitions:
    """Keep every candidate if the second commonest label is frequent or absent, else the majority's.

    Args:
        labels: int64 ``[N, 1 + M]``, column 0 of the raw image.
        tau: DataElixir's τ: from so many intermediates with the second commonest label all are kept.
    """
    counts = F.one_hot(labels[:, 1:], classes).sum(1)
    # A stable sort puts the smaller label first among equals.
    order = counts.argsort(dim=1, descending=True, stable=True)
    majority = order[:, 0]
    second = counts.gather(1, order[:, 1:2])[:, 0]
    keep_all = (second == 0) | (second >= tau)
    kept = keep_all[:, None] | (labels == majority[:, None])
    kept[:, 0] = True
    return Transitions(labels, kept, majority)


def kept_label_shares(transitions: Transitions, given: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """For each given class the shares of the kept labels over its samples that are not unanimous.

    Returns:
        shares: float64 ``[K, K]``, row i the distribution q over kept labels of given class i (zero if
            the class has no such sample).
        samples: int64 ``[K]``, how many samples each row rests on.
    """
    mixed = ~transitions.unanimous
    one_hot = F.one_hot(transitions.labels, classes).double() * transitions.kept[..., None]
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    counts.index_add_(0, given[mixed], one_hot[mixed].sum(1))
    samples = torch.bincount(given[mixed], minlength=classes)
    return counts / counts.sum(1, keepdim=True).clamp_min(1), samples
