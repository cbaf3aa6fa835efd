"""Step 3 of DataElixir: which classes are a backdoor's target, by Kullback-Leibler divergence and MAD."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark.outliers import MAD_TO_SIGMA

SMALLEST_SHARE = 1e-6
"""Keeps -ln q finite where no kept label equals the given one."""


@dataclass(frozen=True)
class TargetScores:
    """Scores of the classes and the classes found.

    Attributes:
        scores: float64 ``[K]``; NaN for a class without evidence (no sample, or none that changes).
        targets: the classes called targets, ascending.
    """

    scores: Tensor
    targets: tuple[int, ...]


def kl_divergence(shares: Tensor, samples: Tensor) -> Tensor:
    """KL(one-hot of class i || q_i) = -ln q_i(i) for each class, float64 ``[K]``; NaN without samples."""
    divergence = -shares.diagonal().clamp_min(SMALLEST_SHARE).log()
    return torch.where(samples > 0, divergence, torch.nan)


def mad_outliers(metric: Tensor, threshold: float) -> TargetScores:
    """Classes whose metric lies further from the median than ``threshold`` robust standard deviations.

    Two-sided, as released: on clean data the lower side raises false alarms (see the default method).
    Fewer than three classes with evidence, or a MAD of zero, show no outlier.
    """
    known = ~metric.isnan()
    scores = torch.full_like(metric, torch.nan)
    if int(known.sum()) < 3:
        return TargetScores(scores, ())
    values = metric[known]
    deviation = (values - torch.quantile(values, 0.5)).abs()
    mad = torch.quantile(deviation, 0.5)
    if float(mad) == 0:
        scores[known] = 0.0
        return TargetScores(scores, ())
    scores[known] = deviation / (MAD_TO_SIGMA * mad)
    found = (scores > threshold).nonzero()[:, 0].tolist()
    return TargetScores(scores, tuple(found))
