"""Step 5 of DataElixir: choose among an image's candidates by pixel and feature distance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.data.dataset import to_float
from hallmark.models import Network
from hallmark.runtime import Runtime

SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""The constants of Wang et al. 2004 for a data range of 1."""
BATCH = 500
"""Candidates compared at once: what bounds the memory, whatever an image's number of candidates."""


def ssim(a: Tensor, b: Tensor, window: int = 3) -> Tensor:
    """Mean structural similarity ``[B]`` of images in 0-1, ``[B, C, H, W]``, averaged over channels.

    The uniform window and unbiased (co)variances of scikit-image's ``structural_similarity``, over
    the positions where the window lies inside the image.
    """

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1)

    size = window * window
    unbiased = size / (size - 1)
    mean_a, mean_b = mean(a), mean(b)
    var_a = unbiased * (mean(a * a) - mean_a * mean_a)
    var_b = unbiased * (mean(b * b) - mean_b * mean_b)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    numerator = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    denominator = (mean_a * mean_a + mean_b * mean_b + SSIM_C1) * (var_a + var_b + SSIM_C2)
    return (numerator / denominator).mean((1, 2, 3))


def distances(raw: Tensor, candidates: Tensor, network: Network, runtime: Runtime) -> Tensor:
    """``½(1 - (SSIM+1)/2) + ½(1 - (cos+1)/2)`` between each raw image and its candidates, ``[N, M]``.

    Args:
        raw: uint8 ``[N, C, H, W]``.
        candidates: uint8 ``[N, M, C, H, W]``.
        network: the suspect model, whose penultimate features are compared by cosine.
    """
    n, m = candidates.shape[:2]
    if n == 0:
        return torch.zeros(0, m)
    own = models.features(network, raw, runtime)
    theirs = models.features(network, candidates.flatten(0, 1), runtime).view(n, m, -1)
    cosine = F.cosine_similarity(own[:, None], theirs, dim=2)
    rows = max(1, BATCH // m)
    similarity = torch.cat(
        [
            ssim(
                to_float(x.to(runtime.device)).repeat_interleave(m, 0), to_float(y.to(runtime.device)).flatten(0, 1)
            ).view(-1, m)
            for x, y in zip(raw.split(rows), candidates.split(rows), strict=True)
        ]
    ).cpu()
    return 0.5 * (1 - (similarity + 1) / 2) + 0.5 * (1 - (cosine + 1) / 2)


def select(distance: Tensor, eligible: Tensor, percentile: float) -> Tensor:
    """The candidate at ``percentile`` of each image's eligible ones, sorted by distance.

    Args:
        distance: ``[N, M]``; the raw image, at distance 0, may be one of the candidates.
        eligible: bool ``[N, M]``.
        percentile: 0 is the nearest; of L candidates the one at ``min(int(percentile * L), L - 1)`` is taken.

    Returns:
        int64 ``[N]``: the column chosen; -1 where none is eligible.
    """
    order = distance.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)
    length = eligible.sum(1)
    position = (percentile * length.double()).long().minimum(length - 1).clamp_min(0)
    chosen = order.gather(1, position[:, None])[:, 0]
    return torch.where(length > 0, chosen, -1)
