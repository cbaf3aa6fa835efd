"""SPECTRE (Hayase, Kong, Somani, Oh 2021): spectral signatures after robust whitening.

Features are projected on their strongest directions, their covariance is estimated robustly by filtering (Diakonikolas
et al. 2017, as in the authors' released code, with its constants), and images are scored by quantum entropy (QUE, their
definition 3.1) after whitening.  Of several numbers of directions that one is used whose removal leaves the most to
stand out.  1.5 times the assumed number of poisons is removed from the target class.  The released code is told which
class that is (``target``); without it, the one where most stands out is called the target (their algorithm 4).

Deviations, for classes that are small or mostly poisoned: no estimate is made of less than half of a class, for the
assumed number is a share of the whole set and can exceed a class; a covariance rests on five images a direction or
more; directions without variance among the images kept are left out.  The paper's poisons are a few per cent of their
class; where they are a third of it or more, no estimate of its covariance can be trusted to be the clean one's.  As
many are removed as in the paper: of a class of which two thirds are poisoned, all.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field
from scipy.linalg import expm
from scipy.sparse.linalg import LinearOperator, eigsh
from threadpoolctl import threadpool_limits

from hallmark.config import ClassLabel, Count
from hallmark.config import Params as _Params
from hallmark.outliers import Array, Mask
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import features_by_class, simple_findings, top

_RELATIVE = 1e-9
"""Directions of less than this share of the strongest one's variance are numerical noise."""
_SLACK = 10.0
"""The released code's C: how far beyond a normal distribution's fourth moments may be, and its first filter."""
_TAU = 0.1
"""The released code's failure probability."""
_SHIFT = 3.0
"""The released code's: so far from the median all is well."""
_PER_DIRECTION = 5
"""A covariance of fewer images a direction means nothing."""
_FEWEST = 10
"""Of fewer images in a class nothing can be said."""


class Params(_Params):
    """Block ``spectre``; alpha, factor and filtered are the released code's."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Assumed upper bound of the poisons' share of the *whole* set."""
    target: ClassLabel | None = None
    """The class that holds the poisons, if it is known, as in the released code; null: it is found."""
    factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    """So many times the assumed number is removed."""
    filtered: Annotated[float, Field(ge=1, le=10)] = 2.0
    """So many times the assumed number may be left out of the covariance."""
    alpha: Annotated[float, Field(ge=0, le=100)] = 4.0
    """Of the QUE score: 0 is the squared norm, large values the strongest direction alone."""
    components: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)] = (1, 4, 9, 16, 25)
    """Numbers of directions tried, squares as in the released code, which goes on to 100: of features as few as those
    of small networks the weakest directions are next to nothing, and would decide.  The largest is also the space in
    which the removals are compared."""


def que_weights(covariance: Array, alpha: float) -> Array:
    """Q / tr Q with Q = exp(alpha (C - I) / (|C| - 1)), of a covariance ``[d, d]`` of whitened features."""
    size = covariance.shape[0]
    excess = np.linalg.norm(covariance, 2) - 1
    weights = expm(alpha * (covariance - np.eye(size)) / excess) if excess > _RELATIVE else np.eye(size)
    return weights / np.trace(weights)


def que_scores(whitened: Array, alpha: float) -> Array:
    """x^T Q x / tr Q (:func:`que_weights`) of ``whitened`` float64 ``[n, d]``: float64 ``[n]``."""
    weights = que_weights(whitened.T @ whitened / len(whitened), alpha)
    return np.einsum("ni,ij,nj->n", whitened, weights, whitened)


def whitened_by(points: Array, kept: Mask) -> Array:
    """``points`` float64 ``[n, d]`` in units of the covariance of those ``kept``, 0 where that has no variance."""
    values, vectors = np.linalg.eigh(np.cov(points[kept], rowvar=False, bias=True).reshape(points.shape[1], -1))
    there = values > _RELATIVE * values.max()
    return points @ (vectors[:, there] / np.sqrt(values[there])) @ vectors[:, there].T


def filtered(points: Array, share: float, limit: int) -> Mask:
    """What a robust covariance rests on: images are left out until the fourth moments are a normal distribution's.

    Args:
        points: float64 ``[n, d]``, centred.
        share: of the poisons, as assumed.
        limit: so many are left out at most.

    Returns:
        bool ``[n]``.
    """
    kept = np.arange(len(points))
    while limit > 0 and len(kept) > _PER_DIRECTION * points.shape[1]:
        far, bound = _excess(points[kept], share)
        if far is None:
            break
        # All that exceed the bound, but no more than the limit allows, the farthest first.
        out = np.argsort(-far, kind="stable")[: min(limit, int((far > bound).sum()))]
        limit -= len(out)
        kept = np.delete(kept, out)
    mask = np.zeros(len(points), dtype=bool)
    mask[kept] = True
    return mask


def _excess(points: Array, share: float) -> tuple[Array | None, float]:
    """How far out every image is, float64 ``[n]``, and from where on it is to be left out; None: all is well."""
    n, d = points.shape
    values, vectors = np.linalg.eigh(points.T @ points / n)
    white = points @ (vectors / np.sqrt(np.maximum(values, _RELATIVE * values.max())))
    norms = (white**2).sum(1)
    if norms.max() >= (bound := _SLACK * d * np.log(n / _TAU)):
        return norms, bound * (1 - _RELATIVE)
    # The matrix V of unit norm for which the variance of x'Vx exceeds that under a normal distribution most.
    if d == 1:
        matrix, strongest = np.ones((1, 1)), float((white**4).mean() - 1)
    else:

        def apply(vector: Array) -> Array:
            square = vector.reshape(d, d)
            forms = np.einsum("ni,ij,nj->n", white, square, white, optimize=True)
            return ((white.T * forms) @ white / n - np.trace(square) * np.eye(d)).ravel()

        operator: Any = LinearOperator((d * d, d * d), matvec=apply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        (strongest,), found = eigsh(operator, k=1, which="LA", v0=np.eye(d).ravel() + 1e-3, tol=cast("Any", 1e-6))
        matrix = found[:, 0].reshape(d, d)
    log = np.log(1 / share)
    if strongest <= 1 + _SLACK * share * log**2:
        return None, 0.0
    forms = (np.einsum("ni,ij,nj->n", white, matrix, white, optimize=True) - np.trace(matrix)) / np.sqrt(2)
    far = np.abs(forms - np.median(forms))
    if far.max() < _SHIFT:
        return None, 0.0
    # Their tail bound is 1 up to 10 ln(1 / share) and all but 0 beyond: what lies beyond goes, or else the farthest.
    beyond = far[far - _SHIFT > 10 * log]
    return far, float((beyond.min() if len(beyond) else far.max()) - _SHIFT)


def class_scores(features: Array, params: Params, assumed: int) -> tuple[Array, float]:
    """The QUE scores of one class by the best number of directions, float64 ``[n]``, and how much stands out.

    Zeros of a class that is too small, or whose images are all alike.

    Args:
        assumed: so many images are poisoned, before the factors; may exceed the class.
    """
    n = len(features)
    best, most = np.zeros(n), 0.0
    centred = features - features.mean(0)
    if n < _FEWEST or np.ptp(centred, 0).max() == 0:
        return best, most
    _, scale, directions = np.linalg.svd(centred, full_matrices=False)
    usable = int((scale > _RELATIVE**0.5 * scale[0]).sum())
    usable = max(1, min(usable, max(params.components), n // _PER_DIRECTION))
    space = centred @ directions[:usable].T
    removed, limit = (min(n // 2, round(times * assumed)) for times in (params.factor, params.filtered))
    for count in sorted({min(count, usable) for count in params.components}):
        points = space[:, :count]
        white = points if count == 1 else whitened_by(points, filtered(points, min(n // 2, assumed) / n, limit))
        scores = que_scores(white, params.alpha)
        kept = np.ones(n, dtype=bool)
        kept[np.argsort(-scores, kind="stable")[:removed]] = False
        rest = whitened_by(space, kept)
        covariance = rest.T @ rest / n
        out = float((covariance * que_weights(covariance, params.alpha)).sum())
        if out > most:
            best, most = scores, out
    return best, most


def detect(material: Material, params: Params) -> Findings:
    """Flag the highest scores of the target class.

    Raises:
        UserError: ``target`` is no class.
    """
    data = material.data
    given = None if params.target is None else data.class_index(params.target, "purify_data.spectre.target")
    flagged = torch.zeros(len(data), dtype=torch.bool)
    scores = torch.zeros(len(data))
    stands_out = torch.full((material.classes,), torch.nan, dtype=torch.float64)
    rows_of: dict[int, torch.Tensor] = {}
    assumed = max(1, round(params.rate * len(data)))
    for label, rows, features in features_by_class(material):
        with threadpool_limits(1):
            raw, stands_out[label] = class_scores(features, params, assumed)
        scores[rows], rows_of[label] = torch.from_numpy(raw).float(), rows
    target = int(stands_out.nan_to_num(-1).argmax()) if given is None else given
    rows = rows_of.get(target, torch.empty(0, dtype=torch.int64))
    flagged[rows] = top(scores[rows], min(len(rows), round(params.factor * assumed)))
    reason = "stands out in the whitened features of the target"
    return simple_findings(flagged, scores, reason, targets=(target,), class_scores=stands_out)
