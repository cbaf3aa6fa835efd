"""SPECTRE (Hayase, Kong, Somani, Oh 2021): spectral signatures after robust whitening.

Features are projected on their strongest directions, mean and covariance are estimated robustly, and images are
scored by quantum entropy (QUE, their definition 3.1) after whitening.  The class with the highest mean score is called
the target (their algorithm 4); 1.5 times the assumed number of poisons is removed from it.

Two deviations.  The robust estimate is scikit-learn's minimum covariance determinant where the authors filter
iteratively; it leaves out as many images as would be removed.  And never more than half of a class is removed: the
assumed number is a share of the whole set, and can exceed a class.  The paper's poisons are a few per cent of their
class; where they are a third of it or more, no estimate of its covariance can be trusted to be the clean one's.
"""

from __future__ import annotations

import warnings
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from scipy.linalg import expm
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from hallmark.config import Count, NonNegative
from hallmark.config import Params as _Params
from hallmark.outliers import Array
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import features_by_class, simple_findings, top
from hallmark.runtime import derive_seed

_RELATIVE = 1e-9
"""Directions of less than this share of the strongest one's variance are numerical noise."""


class Params(_Params):
    """Block ``spectre``; alpha and factor are the paper's."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Assumed upper bound of the poisons' share of the *whole* set."""
    factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    alpha: NonNegative = 4.0
    """Of the QUE score: 0 is the squared norm, large values the strongest direction alone."""
    components: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (2, 4, 8, 16)
    """Numbers of directions tried; the one with the highest mean score is used (their section 3.2)."""


def que_scores(whitened: Array, alpha: float) -> Array:
    """x^T Q x / tr Q with Q = exp(alpha (C - I) / (|C| - 1)), C the covariance of ``whitened``: float64 ``[n]``."""
    covariance = whitened.T @ whitened / len(whitened)
    excess = np.linalg.norm(covariance, 2) - 1
    size = covariance.shape[0]
    weights = expm(alpha * (covariance - np.eye(size)) / excess) if excess > _RELATIVE else np.eye(size)
    return np.einsum("ni,ij,nj->n", whitened, weights, whitened) / np.trace(weights)


def class_scores(features: Array, params: Params, assumed: int, seed: int) -> Array:
    """The QUE scores of one class, with the number of directions that gives the highest mean; float64 ``[n]``.

    Args:
        assumed: so many images may be poisoned, at most half of them.
    """
    best = np.zeros(len(features))
    state = seed % (1 << 32)
    if np.ptp(features, 0).max() == 0:
        return best
    for count in params.components:
        if count > min(features.shape) or len(features) < 5 * count:
            continue  # a covariance of so few images means nothing
        projected = PCA(count, svd_solver="full").fit_transform(features)
        variance = projected.var(0)
        projected = projected[:, variance > _RELATIVE * max(variance.max(), _RELATIVE)]
        if projected.shape[1] == 0:
            continue
        with warnings.catch_warnings():
            # Fewer independent directions than hoped for (features at the edge of a ReLU): it still estimates.
            warnings.simplefilter("ignore")
            support = 1 - assumed / len(projected)
            robust = MinCovDet(random_state=state, support_fraction=support).fit(projected)
        values, vectors = np.linalg.eigh(robust.covariance_)
        values = np.maximum(values, _RELATIVE * values.max())
        scores = que_scores((projected - robust.location_) @ (vectors / np.sqrt(values)), params.alpha)
        if scores.mean() > best.mean():
            best = scores
    return best


def detect(material: Material, params: Params) -> Findings:
    """Flag the highest scores of the one class whose scores are highest on average."""
    flagged = torch.zeros(len(material.data), dtype=torch.bool)
    scores = torch.zeros(len(material.data))
    means = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    rows_of, removed = {}, {}
    for label, rows, features in features_by_class(material):
        seed = derive_seed(material.runtime.seed, f"purify/spectre {label}")
        removed[label] = min(len(rows) // 2, round(params.factor * params.rate * len(material.data)))
        with threadpool_limits(1):
            raw = class_scores(features, params, removed[label], seed)
        scores[rows], means[label], rows_of[label] = torch.from_numpy(raw).float(), float(raw.mean()), rows
    target = int(means.nan_to_num(-1).argmax())
    rows = rows_of[target]
    flagged[rows] = top(scores[rows], removed[target])
    return simple_findings(
        flagged, scores, "stands out in the whitened features of the target", targets=(target,), class_scores=means
    )
