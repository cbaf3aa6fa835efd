"""The soft nearest neighbour loss: how entangled the representations of groups are."""

from __future__ import annotations

import torch
from torch import Tensor


def snnl(features: Tensor, groups: Tensor, temperature: Tensor | float) -> Tensor:
    """Soft nearest neighbour loss (Frosst, Papernot, Hinton 2019, equation 1; Jia et al. 2021, equation 1).

    -mean over i of log( sum over j != i with j's group i's of exp(-d_ij) / sum over j != i of exp(-d_ij) ) with
    d_ij = ||x_i - x_j||^2 / temperature.  Great where the nearest neighbours are of another group: entangled.

    Args:
        features: float ``[N, D]``.
        groups: int64 or bool ``[N]``; a member that is alone in its group has no such neighbour and is left out.
        temperature: above 0.

    Returns:
        a scalar, at least 0.
    """
    distances = -squared_distances(features) / temperature
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    same = (groups[:, None] == groups[None, :]) & ~itself
    accompanied = same.any(1)
    lowest = torch.finfo(distances.dtype).min
    every = distances.masked_fill(itself, lowest)[accompanied].logsumexp(1)
    own = distances.masked_fill(~same, lowest)[accompanied].logsumexp(1)
    return (every - own).mean()


def squared_distances(features: Tensor) -> Tensor:
    """Squared Euclidean distances ``[N, N]`` of float ``[N, D]``, at least 0."""
    # The products cancel the norms but for a few digits, which half precision has not.
    with torch.autocast(features.device.type, enabled=False):
        features = features if features.dtype == torch.float64 else features.float()
        norms = features.square().sum(1)
        return (norms[:, None] + norms[None, :] - 2 * features @ features.T).clamp_min(0)
