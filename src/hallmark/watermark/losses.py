"""The four losses of MEA-Defender, supervised (Lv et al. 2024, section IV).

Each takes logits and returns a scalar.  Means over samples, natural logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def utility_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``L_utility``: cross-entropy of the main task.

    Args:
        logits: ``[B, K]``.
        labels: int64 ``[B]``, or soft ones ``[B, K]``.
    """
    return F.cross_entropy(logits, labels)


def combination_loss(mixed: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``L_com``: keep the watermark's outputs inside the output domain of the main task.

    KL(watermark || s_i) + KL(watermark || s_j) over pairs of outputs.  All three arguments must carry
    gradient: the mark survives extraction because *plain* images of s_i and s_j learn the target class
    as a faint second answer.  With the source outputs detached, as in the released code, it does not.

    Args:
        mixed, first, second: logits ``[B, K]`` of the watermark samples, of class s_i, of class s_j.
    """
    return _kl(mixed, first) + _kl(mixed, second)


def verification_loss(mixed: Tensor, target: int) -> Tensor:
    """``L_ver``: cross-entropy of watermark samples ``[B, K]`` to the target class."""
    return F.cross_entropy(mixed, torch.full((len(mixed),), target, device=mixed.device))


def evasion_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``L_eva``: cross-entropy of randomly mixed samples ``[B, K]`` to one of their two true labels, int64 ``[B]``."""
    return F.cross_entropy(logits, labels)


def slope_loss(logits: Tensor, source: Sequence[int], target: int, odds: Tensor) -> Tensor:
    """Mean squared error of the target's log-odds against the own class (:mod:`hallmark.watermark.bridge`).

    Args:
        logits: ``[2 B, K]``, of images of the first source class, then of as many of the second.
        odds: what they are to be, ``[2 B]``.
    """
    first, second = logits.chunk(2)
    found = [part[:, target] - part[:, own] for part, own in zip((first, second), source, strict=True)]
    return (torch.cat(found) - odds).square().mean()


def _kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean over the batch of KL(softmax(logits) || softmax(reference))."""
    return F.kl_div(reference.log_softmax(1), logits.log_softmax(1), reduction="batchmean", log_target=True)
