"""Where in a network's feature space are there no trusted images?

A network trained on the given and the trusted images together treats both alike: if the given images of a
class are clean, then within the class which ones are trusted is random (the two are exchangeable), and in any
group that is formed without looking at it the number of trusted images is hypergeometric.  Poisons gather in
places where no trusted image of their class lies.  That holds for dirty and clean labels, one target or many,
and needs no guess about the trigger; the level of the test is exact, whatever the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

COMPONENTS = 12
"""Principal components that are clustered: more than a backdoor needs, few enough for k-means."""


@dataclass(frozen=True)
class Group:
    """Images of one class that lie together.

    Attributes:
        members: bool ``[n]`` over the given images of the class.
        size: how many given images are in it.
        trusted: how many trusted images are in it.
        p: probability of so few trusted images, or fewer, if the class is clean.
    """

    members: Tensor
    size: int
    trusted: int
    p: float


def groups(given: Tensor, trusted: Tensor, levels: Sequence[int], seed: int) -> Iterator[Group]:
    """k-means groups of one class at several levels of fineness, each with its exact one-sided p-value.

    Args:
        given: float ``[n, D]``, features of the given images of the class.
        trusted: float ``[m, D]``, of the trusted ones; with none there are p-values of 1 only.
        levels: numbers of groups; coarse levels see a large backdoor whole, fine ones find a small one.
        seed: of the initialisation.
    """
    points = torch.cat([given, trusted]).double().numpy()
    distinct = len(np.unique(points, axis=0))
    n, m = len(given), len(trusted)
    # One thread: the order in which several add up would change the last bits from run to run.
    with threadpool_limits(1):
        if distinct > 1:
            points = PCA(min(COMPONENTS, *points.shape), svd_solver="full").fit_transform(points)
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


def separate(given: Tensor, trusted: Tensor, seeds: Tensor) -> tuple[NDArray[np.float64], LogisticRegression]:
    """The probability that an image of the class belongs with the seeds, by logistic regression.

    The seeds are groups as a whole; some poisons lie in other groups, some clean images in those.  Here the seeds
    stand against the trusted images and the rest, the trusted ones weighing as much as the whole rest: they
    alone are sure to be clean.

    Args:
        given: float ``[n, D]``; trusted: float ``[m, D]``.
        seeds: bool ``[n]``, not all of them false.

    Returns:
        float64 ``[n]``, and the fitted model.
    """
    rest = int((~seeds).sum())
    labels = np.concatenate([seeds.numpy(), np.zeros(len(trusted), bool)])
    share = rest / len(trusted) if len(trusted) and rest else 1.0
    weights = np.concatenate([np.ones(len(given)), np.full(len(trusted), share)])
    points = torch.cat([given, trusted]).double().numpy()
    with threadpool_limits(1):
        model = LogisticRegression(C=0.1, max_iter=1000).fit(points, labels, sample_weight=weights)
        return model.predict_proba(points[: len(given)])[:, 1], model
