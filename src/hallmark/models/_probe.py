"""A linear probe: multinomial logistic regression on frozen features, the usual measure of an encoder."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

PENALTY = 1.0
"""scikit-learn's ``C``."""
ITERATIONS = 300
"""Of L-BFGS at most; more change no answer that was looked at."""
LEAST_SPREAD = 1e-6
"""Of the largest: a feature that varies less is constant, and is not scaled up."""


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, float32 ``[D]``, computed in float64; constant ones get the largest.

    Args:
        features: float ``[N, D]``.
    """
    spread, mean = torch.std_mean(features.double(), 0, correction=0)
    largest = spread.max()
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    return mean.float(), torch.where(spread > LEAST_SPREAD * largest, spread, unit).float()


def linear_probe(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """Fit a linear probe; the standardisation of the features is folded into its weights.

    Deterministic: L-BFGS on the whole set, from zero.

    Args:
        features: float ``[N, D]``, finite.
        labels: int64 ``[N]``, at least two different ones.
        classes: K; classes without images get a bias that no image overcomes.

    Returns:
        a layer from features ``[B, D]`` to logits ``[B, K]``, on the CPU.

    Raises:
        ValueError: fewer than two classes have images.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - slow to import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    there = labels.unique()
    if len(there) < 2:
        raise ValueError("a probe needs images of at least two classes")
    mean, spread = standardisation(features)
    x = ((features - mean) / spread).double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that stops early is still a probe
        fitted = LogisticRegression(C=PENALTY, max_iter=ITERATIONS).fit(x, labels.numpy())
    weight, bias = (torch.from_numpy(values).float() for values in (fitted.coef_, fitted.intercept_))
    if len(there) == 2:  # scikit-learn gives one row, of the second class against the first
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    probe = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        probe.weight.zero_()
        probe.bias.fill_(-1e4)
        probe.weight[there] = weight / spread
        probe.bias[there] = bias - (weight / spread) @ mean
    return probe.requires_grad_(False)
