"""Neighbours and clusters in a network's feature space."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

ROWS = 1024
"""Rows of the similarity matrix that are in memory at a time."""


def smooth(evidence: Tensor, features: Tensor, neighbours: int) -> Tensor:
    """Mean evidence of each item and its nearest neighbours by cosine similarity.

    Poisons of one backdoor lie together in the features of a backdoored model: those whose own
    evidence is weak (the trigger fell on similar texture) are recognised by their company.

    Args:
        evidence: float ``[N]``.
        features: float ``[N, D]``.
        neighbours: how many items are averaged, the item itself included; at most N are.

    Returns:
        float ``[N]``.
    """
    if len(evidence) == 0:
        return evidence.clone()
    unit = F.normalize(features, dim=1)
    count = min(neighbours, len(evidence))
    return torch.cat([evidence[(rows @ unit.T).topk(count, dim=1).indices].mean(1) for rows in unit.split(ROWS)])


def cluster(features: Tensor, clusters: int, seed: int, components: int = 8) -> Tensor:
    """k-means on the principal components: int64 ``[N]``, group numbers without gaps from 0.

    Args:
        features: float ``[N, D]``; with fewer than ``clusters`` distinct items there are fewer groups.
        seed: of the initialisation.
    """
    distinct = len(features.unique(dim=0))
    if distinct < 2:
        return torch.zeros(len(features), dtype=torch.int64)
    # One thread: the order in which several add up would change the last bits from run to run.
    with threadpool_limits(1):
        points = features.double().numpy()
        points = PCA(min(components, *points.shape), svd_solver="full").fit_transform(points)
        count = min(clusters, distinct)
        groups = KMeans(count, n_init=3, random_state=seed % (1 << 32)).fit_predict(points)  # pyright: ignore[reportArgumentType]
    return torch.from_numpy(groups).long().unique(return_inverse=True)[1]
