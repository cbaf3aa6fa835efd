"""Where are there too few trusted images?  Exact tests that need no guess about the trigger.

If the given images of a class are clean, then which of the class's images are trusted is random (given and
trusted ones are exchangeable) for everything that treats both alike.  So in any group that is formed without
looking at it the number of trusted images is hypergeometric, and so is their number among the images with the
highest scores.  Poisons gather where no trusted image of their class is.  That holds for dirty and clean labels,
one target or many; the level is exact for scores that treat given and trusted images alike, whatever network gives
them.  Networks that were cross-fitted on the trusted images do so only nearly: each image alone, not all together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom, rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor

COMPONENTS = 12
"""Principal components that are clustered: more than a backdoor needs, few enough for k-means."""
DRAWS = 20_000
"""Enough for p-values of a few ten-thousandths."""
FIRST_DRAWS, UNREMARKABLE = 1000, 0.05
"""After so many draws a p-value above this one stands."""

MANY = 100
"""Trusted images of a class that may be asked for."""


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
    # k-means begins at positions: those of trusted images must not be the last ones.
    order = np.random.default_rng(seed).permutation(n + m)
    # One thread: the order in which several add up would change the last bits from run to run.
    with threadpool_limits(1):
        for level in levels:
            count = min(level, distinct)
            numbers = np.zeros(n + m, np.int64)
            if count > 1:
                kmeans = KMeans(count, n_init=1, random_state=seed % (1 << 32))  # pyright: ignore[reportArgumentType]
                numbers[order] = kmeans.fit_predict(points[order])
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
        shares: of each class's images, given and trusted together, ascending.
    """
    n = len(given)
    labels = torch.cat([given_labels, trusted_labels]).numpy()
    is_trusted = np.arange(len(labels)) >= n
    bins = _bins(torch.cat([given, trusted]).double().numpy(), labels, is_trusted, shares)
    for k, cdf in enumerate(_null(bins, labels, is_trusted, len(shares))):
        top = bins <= k
        trusted_on_top = int((top & is_trusted).sum())
        members = torch.from_numpy(top[:n])
        if members.any():
            yield Group(members, int(members.sum()), trusted_on_top, float(cdf[trusted_on_top]))


def attainable(given_labels: Tensor, trusted_labels: Tensor, shares: Sequence[float]) -> float:
    """The smallest p-value that :func:`tops` can give, whatever the scores; 1 without trusted images.

    Args:
        given_labels, trusted_labels: int64, the classes.
        shares: see :func:`tops`.
    """
    p = np.ones(len(shares))
    for label in torch.cat([given_labels, trusted_labels]).unique().tolist():
        p *= _lowest(int((given_labels == label).sum()), np.array([int((trusted_labels == label).sum())]), shares)[0]
    return float(p.min())


def sufficient(given: int, shares: Sequence[float], level: float) -> int:
    """From how many trusted images of a class on :func:`tops` can give a p-value below ``level``.

    Args:
        given: given images of the class.

    Returns:
        :data:`MANY` at most; 0 if so many would not do, for the given ones are too few.
    """
    wanting = np.flatnonzero(_lowest(given, np.arange(MANY + 1), shares).min(1) >= level)
    return 0 if wanting[-1] == MANY else int(wanting[-1]) + 1  # none at all never do


def rarest(
    scores: Sequence[tuple[Tensor, Tensor]],
    given_labels: Tensor,
    trusted_labels: Tensor,
    shares: Sequence[float],
    *,
    relevant: float,
    seed: int,
) -> tuple[Group, float]:
    """The group of :func:`tops` of several scores with the smallest p-value, and the p-value of that minimum.

    The groups overlap, and Bonferroni's bound is then far too high.  So the distribution of the smallest p-value is
    simulated: which images of a class are trusted is drawn anew, :data:`DRAWS` times or as often as ``relevant`` wants.

    Args:
        scores: pairs as ``given`` and ``trusted`` of :func:`tops`.
        relevant: where the smallest p-value is above this one, the bound will do.
        seed: of the draws.
    """
    found = [g for given, trusted in scores for g in tops(given, trusted, given_labels, trusted_labels, shares)]
    if not found:
        return Group(torch.zeros_like(given_labels, dtype=torch.bool), 0, 0, 1.0), 1.0
    best = min(found, key=lambda group: group.p)
    bound = min(1.0, best.p * len(found))
    if best.p > relevant:
        return best, bound
    n = len(given_labels)
    labels = torch.cat([given_labels, trusted_labels]).numpy()
    is_trusted = np.arange(len(labels)) >= n
    bins = [_bins(torch.cat(pair).double().numpy(), labels, is_trusted, shares) for pair in scores]
    # Images in the same bins of all scores are alike: their numbers of trusted images are all that is drawn.
    cells, cell = np.unique(np.stack(bins), axis=1, return_inverse=True)
    generator = np.random.default_rng(seed)
    draws, rarer = max(DRAWS, math.ceil(20 / relevant)), 0
    nulls = [_null(own, labels, is_trusted, len(shares)) for own in bins]
    for start in range(0, draws, DRAWS):
        count = min(DRAWS, draws - start)
        drawn = np.zeros((count, cells.shape[1]), np.int64)
        for label in np.unique(labels):
            rows = labels == label
            colours = np.bincount(cell.reshape(-1)[rows], minlength=cells.shape[1])
            held = int((rows & is_trusted).sum())
            drawn += generator.multivariate_hypergeometric(colours, held, count, method="marginals")
        smallest = np.ones(count)
        for score, null in enumerate(nulls):
            for k, cdf in enumerate(null):
                smallest = np.minimum(smallest, cdf[drawn[:, cells[score] <= k].sum(1)])
        rarer += int((smallest <= best.p * (1 + 1e-9)).sum())  # equal p-values are equal up to rounding
    return best, min(bound, (1 + rarer) / (1 + draws))


def displaced(
    given: Tensor, trusted: Tensor, directions: Sequence[int], *, relevant: float, seed: int
) -> tuple[float, int]:
    """Probability that the mean of the trusted points is so far from the mean of all, if all are exchangeable.

    An exact permutation test: which points are trusted is drawn anew, :data:`DRAWS` times or as often as ``relevant``
    wants.  For points of unit covariance the squared distance is Hotelling's statistic; of several numbers of
    coordinates the one with the smallest p-value counts, and the distribution of that minimum is drawn as well.

    Args:
        given: float ``[n, D]``; trusted: float ``[m, D]``; the most important coordinates first.
        directions: how many of them are looked at together, one number after another, ascending.
        relevant: p-values much above this one need few draws.
        seed: of the draws.

    Returns:
        the probability, and the number of coordinates that showed most.
    """
    n, m = len(given), len(trusted)
    if not n or not m or not given.shape[1]:
        return 1.0, 0
    points = torch.cat([given, trusted]).double().numpy()[:, : directions[-1]]
    points -= points.mean(0)
    ends = [min(d, points.shape[1]) - 1 for d in directions]

    def statistic(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.square(sums).cumsum(1)[:, ends]

    generator = np.random.default_rng(seed)
    drawn = [statistic(points[n:].sum(0, keepdims=True)) * (1 - 1e-9)]  # equal ones are equal up to rounding
    for draws in (FIRST_DRAWS, max(DRAWS, math.ceil(20 / relevant)) - FIRST_DRAWS):
        for start in range(0, draws, FIRST_DRAWS):
            count = min(FIRST_DRAWS, draws - start)
            chosen = np.argpartition(generator.random((count, n + m), np.float32), m - 1, axis=1)[:, :m]
            drawn.append(statistic(points[chosen].sum(1)))
        # The given division is one of all: ranks among them, and of the smallest rank again.
        values = np.concatenate(drawn)
        every = np.stack([len(column) - rankdata(column, "min") + 1 for column in values.T], 1)
        ranks = every.min(1)
        p = float((ranks <= ranks[0]).mean())
        if p > UNREMARKABLE:
            break
    return p, ends[int(every[0].argmin())] + 1


def _bins(
    scores: NDArray[np.float64], labels: NDArray[np.int64], is_trusted: NDArray[np.bool_], shares: Sequence[float]
) -> NDArray[np.int64]:
    """The first of ``shares`` (ascending) in whose top of its class each image is; their number if in none."""
    bins = np.empty(len(scores), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # Trusted images first among equals: a tie must not look like a lack of them.
        order = np.lexsort((~is_trusted[rows], -scores[rows]))
        ends = _ends(shares, np.array(len(rows)))
        bins[rows[order]] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return bins


def _ends(shares: Sequence[float], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many images are on top: ``[..., S]`` of so many (``[...]``) of a class, at each share."""
    return np.maximum(1, np.round(np.asarray(shares) * size[..., None]))


def _lowest(given: int, trusted: NDArray[np.int64], shares: Sequence[float]) -> NDArray[np.float64]:
    """The probability that no more trusted images are on top of a class than must be: ``[T, S]``.

    Args:
        given: how many given images the class has.
        trusted: ``[T]``, numbers of trusted images, one case each.
    """
    ends, trusted = _ends(shares, given + trusted), trusted[:, None]
    return hypergeom.cdf(np.maximum(0, ends - given), given + trusted, trusted, ends)


def _null(
    bins: NDArray[np.int64], labels: NDArray[np.int64], is_trusted: NDArray[np.bool_], shares: int
) -> list[NDArray[np.float64]]:
    """For each share the probabilities of 0, 1, ... trusted images, or fewer, on top of clean classes."""
    found = []
    for k in range(shares):
        top, null = bins <= k, np.ones(1)
        for label in np.unique(labels):
            rows = labels == label
            held, count = int((rows & is_trusted).sum()), int((rows & top).sum())
            null = np.convolve(null, hypergeom.pmf(np.arange(min(held, count) + 1), int(rows.sum()), held, count))
        found.append(np.minimum(null.cumsum(), 1.0))
    return found
