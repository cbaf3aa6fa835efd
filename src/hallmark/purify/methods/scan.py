"""SCAn (Tang, Wang, Tang, Zhang 2021), the strong recent baseline: it uses trusted images as ours does.

Features are a class's (or subgroup's) mean plus a variation that all classes share, estimated on trusted images.  A
class is called contaminated if two subgroups explain it far better than one; the likelihood ratio is compared between
classes by the median absolute deviation (their section 4.2).  Two subgroups of one shared covariance are, with hard
assignment, k-means after whitening with it, where the authors alternate a linear discriminant.  The subgroup with
the smaller share of trusted images is flagged.

Chosen over FLARE and ASSET: it has one idea, published constants, and as much trusted data as ours gets.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits

from hallmark import models
from hallmark.config import Count, Positive
from hallmark.config import Params as _Params
from hallmark.outliers import MAD_TO_SIGMA, Array, Mask
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import features_by_class, simple_findings
from hallmark.runtime import derive_seed


class Params(_Params):
    """Block ``scan``."""

    threshold: Positive = math.e**2
    """Of J*, robust standard deviations; the paper's exp(2)."""
    least: Count = 10
    """Classes of fewer images are left alone."""


def whitening(features: Array, labels: NDArray[np.int64]) -> Array:
    """The matrix that gives the within-class variation unit covariance, float64 ``[D, D]``.

    Shrunk (Ledoit and Wolf), for trusted images are hardly more than features.
    """
    centred = np.concatenate([features[labels == k] - features[labels == k].mean(0) for k in np.unique(labels)])
    values, vectors = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(centred).covariance_)
    values = np.maximum(values, 1e-9 * max(values.max(), 1e-9))
    return vectors / np.sqrt(values)


def two_groups(whitened: Array, seed: int) -> tuple[Mask, float, Array]:
    """Two subgroups of one class.

    Args:
        whitened: float64 ``[n, D]``.

    Returns:
        bool ``[n]``: the second group; twice the log-likelihood ratio against one group, standardised as their
        equation 9 does with the chi-square's mean and variance; the centres ``[2, D]``.
    """
    kmeans = KMeans(2, n_init=10, random_state=seed % (1 << 32))  # pyright: ignore[reportArgumentType]
    numbers = kmeans.fit_predict(whitened)
    one = float(((whitened - whitened.mean(0)) ** 2).sum())
    freedom = whitened.shape[1]
    ratio = one - float(kmeans.inertia_ or 0.0)
    return np.asarray(numbers == 1), (ratio - freedom) / math.sqrt(2 * freedom), kmeans.cluster_centers_


def detect(material: Material, params: Params) -> Findings:
    """Flag the subgroup without trusted images of every contaminated class."""
    data, trusted = material.data, material.reserve
    flagged, scores = torch.zeros(len(data), dtype=torch.bool), torch.zeros(len(data))
    reserve = models.features(material.suspect, trusted.images, material.runtime).double().numpy()
    reserve_labels = trusted.labels.numpy()
    ratios, subgroups = torch.full((material.classes,), torch.nan, dtype=torch.float64), {}
    with threadpool_limits(1):
        transform = whitening(reserve, reserve_labels)
        for label, rows, features in features_by_class(material):
            if len(rows) < params.least or np.ptp(features, 0).max() == 0:
                continue
            seed = derive_seed(material.runtime.seed, f"purify/scan {label}")
            second, ratios[label], centres = two_groups(features @ transform, seed)
            own = reserve[reserve_labels == label] @ transform
            distance = [((features @ transform - centre) ** 2).sum(1) for centre in centres]
            in_second = ((own - centres[1]) ** 2).sum(1) < ((own - centres[0]) ** 2).sum(1)
            shares = second.mean(), in_second.mean() if len(own) else 0.5
            # The group of which trusted images have less than their share.
            poisoned, sign = (second, 1) if shares[0] > shares[1] else (~second, -1)
            subgroups[label] = rows, torch.from_numpy(poisoned)
            scores[rows] = torch.from_numpy(sign * (distance[0] - distance[1])).float() / len(centres[0])
    known = ratios[~ratios.isnan()]
    if len(known) == 0:
        return simple_findings(flagged, scores, "")
    # quantile: torch's median of an even number is the lower one, and of two classes one would always stand out.
    middle = known.quantile(0.5)
    # Signed: only classes that two groups explain unusually well, not unusually badly.
    stars = (ratios - middle) / (MAD_TO_SIGMA * (known - middle).abs().quantile(0.5)).clamp_min(1e-9)
    contaminated = [label for label in subgroups if stars[label] > params.threshold]
    for label in contaminated:
        rows, poisoned = subgroups[label]
        flagged[rows] = poisoned
    return simple_findings(
        flagged,
        scores,
        "in the subgroup without trusted images",
        targets=tuple(contaminated),
        class_scores=stars,
        threshold=params.threshold,
    )
