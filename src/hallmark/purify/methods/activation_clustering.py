"""Activation Clustering (Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava 2018).

Features of each class are reduced by independent component analysis and split in two by k-means; a class is
called poisoned by the clusters' relative size or silhouette, and its smaller cluster is flagged.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from hallmark.config import Count, Share
from hallmark.config import Params as _Params
from hallmark.outliers import two_clusters
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import features_by_class, simple_findings
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
            reduced, smaller = two_clusters(features, params.components, seed)
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
