"""Where are there too few trusted images?  Exact tests that need no guess about the trigger.

If the given images of a class are clean, then which of the class's images are trusted is random (given and
trusted ones are exchangeable) for everything that treats both alike.  So in any group that is formed without
looking at it the number of trusted images is hypergeometric, and so is their number among the images with the
highest scores.  Poisons gather where no trusted image of their class is.  That holds for dirty and clean labels,
one target or many; the level of the tests is exact, whatever network gave the features or scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import hypergeom
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor

COMPONENTS = 12
"""Principal components that are clustered: more than a backdoor needs, few enough for k-means."""


@dataclass(frozen=True)
class Group:
    """Images that lie together, or have the highest scores.

    Attributes:
        members: bool ``[n]`` over the given images.
        size: how many given images are in it.
        trusted: how many trusted images are in it.
        p: probability of so few trusted images, or fewer, if the given images are clean.
    """

    members: Tensor
    size: int
    trusted: int
    p: float


def groups(given: Tensor, trusted: Tensor, levels: Sequence[int], seed: int) -> Iterator[Group]:
    """k-means groups of one class at several levels of fineness, each with its exact one-sided p-value.

    The principal components are brought to one scale first: a backdoor need not be among the strongest of them.

    Args:
        given: float ``[n, D]``, features of the given images of the class.
        trusted: float ``[m, D]``, of the trusted ones; with none there are p-values of 1 only.
        levels: numbers of groups; coarse levels see a large backdoor whole, fine ones find a small one.
        seed: of the initialisation.
    """
    points = torch.cat([given, trusted]).double().numpy()
    distinct = len(np.unique(points, axis=0))
    n, m = len(given), len(trusted)
    if distinct > 1:
        points = torch.cat(whitened(given, trusted, COMPONENTS)).numpy()
    # One thread: the order in which several add up would change the last bits from run to run.
    with threadpool_limits(1):
        for level in levels:
            count = min(level, distinct)
            if count < 2:
                numbers = np.zeros(n + m, np.int64)
            else:
                kmeans = KMeans(count, n_init=1, random_state=seed % (1 << 32))  # pyright: ignore[reportArgumentType]
                numbers = kmeans.fit_predict(points)
            sizes = np.bincount(numbers[:n], minlength=count)
            held = np.bincount(numbers[n:], minlength=count)
            p = hypergeom.cdf(held, n + m, m, sizes + held)
            for k in range(count):
                if sizes[k]:
                    members = torch.from_numpy(numbers[:n] == k)
                    yield Group(members, int(sizes[k]), int(held[k]), float(p[k]))


def whitened(given: Tensor, trusted: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Principal components of both together, of unit variance: float64 ``[n, D]`` and ``[m, D]``, from any float.

    Components without variance are left out; of points that are all the same none is left.
    """
    points = torch.cat([given, trusted]).double().numpy()
    if len(points) < 2 or np.ptp(points, 0).max() == 0:
        empty = torch.zeros(len(points), 0, dtype=torch.float64)
        return empty[: len(given)], empty[len(given) :]
    with threadpool_limits(1):
        pca = PCA(min(components, *points.shape), svd_solver="full")
        points = pca.fit_transform(points)
    scale = np.sqrt(pca.explained_variance_)
    real = scale > 1e-6 * scale[0]
    result = torch.from_numpy(points[:, real] / scale[real])
    return result[: len(given)], result[len(given) :]


def tops(
    given: Tensor, trusted: Tensor, given_labels: Tensor, trusted_labels: Tensor, shares: Sequence[float]
) -> Iterator[Group]:
    """The images with the highest scores *of each class*, at several shares, with the exact one-sided p-value.

    Within a class the ranks of trusted images are random if it is clean; over several classes the numbers of
    trusted images on top add up, and their distribution is the convolution of the classes' hypergeometric ones.
    So the trusted set need not have the class shares of the given one.

    Args:
        given, trusted: float ``[n]``, ``[m]``, higher is worse.
        given_labels, trusted_labels: int64, the classes.
        shares: of each class's images, given and trusted together.
    """
    n = len(given)
    scores = torch.cat([given, trusted]).double().numpy()
    labels = torch.cat([given_labels, trusted_labels]).numpy()
    is_trusted = np.arange(len(scores)) >= n
    rank, size = np.empty(len(scores)), np.empty(len(scores))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # Trusted images first among equals: a tie must not look like a lack of them.
        order = np.lexsort((~is_trusted[rows], -scores[rows]))
        rank[rows[order]] = np.arange(len(rows))
        size[rows] = len(rows)
    for share in shares:
        top = rank < np.maximum(1, np.round(share * size))
        null = np.ones(1)
        for label in np.unique(labels):
            rows = labels == label
            held, count = int((rows & is_trusted).sum()), int((rows & top).sum())
            null = np.convolve(null, hypergeom.pmf(np.arange(min(held, count) + 1), int(rows.sum()), held, count))
        trusted_on_top = int((top & is_trusted).sum())
        p = min(1.0, float(null[: trusted_on_top + 1].sum()))
        yield Group(torch.from_numpy(top[:n]), int(top[:n].sum()), trusted_on_top, p)
