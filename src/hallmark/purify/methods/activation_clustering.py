"""Activation Clustering (Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava 2018).

Features of each class are reduced by independent component analysis and split in two by k-means; a class is
called poisoned by the clusters' relative size or silhouette, and its smaller cluster is flagged.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from hallmark.config import Count, Share
from hallmark.config import Params as _Params
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import Array, Mask, features_by_class, simple_findings
from hallmark.runtime import derive_seed


class Params(_Params):
    """Block ``activation_clustering``; 10 components are the paper's, the size threshold is the ART library's."""

    components: Annotated[int, Field(ge=1, le=256)] = 10
    rule: Literal["size", "silhouette"] = "size"
    """What a class is judged by (the paper's section 5 has both)."""
    size: Annotated[float, Field(gt=0, lt=0.5)] = 0.35
    """A smaller cluster of less than this share of the class makes it poisoned."""
    silhouette: Share = 0.1
    """A higher mean silhouette makes it poisoned; the paper's clean classes have 0.1 and less."""
    least: Count = 10
    """Classes of fewer images are left alone."""


def split(features: Array, components: int, seed: int) -> tuple[Array, Mask]:
    """Two clusters of one class.

    Args:
        features: float64 ``[n, D]``, not all the same.

    Returns:
        the reduced features, and bool ``[n]``: the smaller cluster.
    """
    state = seed % (1 << 32)
    count = min(components, *features.shape, int(np.linalg.matrix_rank(features - features.mean(0))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # unmixed or not, the subspace is the same
        ica = FastICA(count, random_state=state, whiten="unit-variance", max_iter=400)
        reduced = np.asarray(ica.fit_transform(features))
    numbers = KMeans(2, n_init=10, random_state=state).fit_predict(reduced)  # pyright: ignore[reportArgumentType]
    return reduced, np.asarray(numbers == (0 if 2 * (numbers == 0).sum() <= len(numbers) else 1))


def detect(material: Material, params: Params) -> Findings:
    """Flag the smaller of two clusters of every class that looks poisoned."""
    flagged = torch.zeros(len(material.data), dtype=torch.bool)
    scores = torch.zeros(len(material.data))
    sizes = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    for label, rows, features in features_by_class(material):
        if len(rows) < params.least or np.ptp(features, 0).max() == 0:
            continue
        with threadpool_limits(1):
            seed = derive_seed(material.runtime.seed, f"purify/activation_clustering {label}")
            reduced, smaller = split(features, params.components, seed)
            share = float(smaller.mean())
            width = float(silhouette_score(reduced, smaller)) if params.rule == "silhouette" else 0.0
        centres = [reduced[~smaller].mean(0), reduced[smaller].mean(0)]
        distance = [np.linalg.norm(reduced - centre, axis=1) for centre in centres]
        scores[rows] = torch.from_numpy(distance[0] / (distance[0] + distance[1])).float()
        poisoned = share < params.size if params.rule == "size" else width > params.silhouette
        sizes[label] = 1 - share if params.rule == "size" else width
        if poisoned:
            flagged[rows] = torch.from_numpy(smaller)
    threshold = 1 - params.size if params.rule == "size" else params.silhouette
    targets = tuple(material.data.labels[flagged].unique().tolist())
    reason = "in the smaller cluster of a class that falls in two"
    return simple_findings(flagged, scores, reason, targets=targets, class_scores=sizes, threshold=threshold)
