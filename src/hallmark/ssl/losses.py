"""MEA-Defender's losses on an encoder's features, and the geometry that carries the mark into a stolen encoder.

Lv et al. 2024, section IV, say for encoders only: verification is the distance between the features of watermark
samples and of samples of y_t, evasion likewise to the class of the label, utility is SimCLR's loss.
docs/self_supervised.md has the equations as they are here, and what is measured of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

EVERY = 5
"""Batches between two decompositions of the features' covariance."""
MEMORY = 0.95
"""Share of the moving averages that stays at each batch."""
RIDGE = 0.1
"""Added to every eigenvalue of the covariance of standardised features (their mean eigenvalue is 1): no direction
counts more than about three times as much as an average one."""


@dataclass(frozen=True)
class Standard:
    """Batch normalisation without parameters, by the features of a batch of views: mean and deviation ``[D]``.

    Encoders' features share a huge mean, so that every raw cosine is almost 1.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standard:
        """By features ``[B, D]``; carries their gradient."""
        variance, mean = torch.var_mean(features, 0, correction=0)
        return cls(mean, (variance + 1e-5).sqrt())

    def __call__(self, features: Tensor) -> Tensor:
        """Features ``[B, D]``, standardised."""
        return (features - self.mean) / self.spread


def prototype(features: Tensor) -> Tensor:
    """The direction of a class: the normalised mean ``[D]`` of its standardised features ``[B, D]``."""
    return F.normalize(features.mean(0), dim=0)


def among(features: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of "which prototype is it", by cosine: a form of L_ver and of L_eva.

    Args:
        features: standardised, ``[B, D]``.
        prototypes: unit vectors ``[P, D]``.
        labels: the prototype of each, int64 ``[B]``.
    """
    return F.cross_entropy(F.normalize(features, dim=1) @ prototypes.T / temperature, labels)


def bisector(prototypes: Tensor, most: float) -> Tensor:
    """L_com for features: put the target's prototype between those of the source classes, and keep these apart.

    A thief learns of the mark what plain images show.  With y_t between s_i and s_j, a student that is about linear
    between their images puts their combinations where y_t is.

    Args:
        prototypes: unit vectors of s_i, s_j and y_t, ``[3, D]``.
        most: cosine of the two source classes above which they are pushed apart.
    """
    first, second, target = prototypes
    between = F.normalize(first + second, dim=0)
    return 1 - target @ between + F.relu(first @ second - most)


class Whitened:
    """L_ver as a distance: of watermark samples to y_t's mean, in the space where all directions vary alike.

    A linear probe also reads directions in which the features hardly vary, and calls a watermark sample that is off
    there something else, however near it is by cosine.  Mean and covariance are moving averages without gradient.

    Args:
        size: D.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._batches = 0
        self._covariance = torch.zeros(size, size, device=device)
        self._target = torch.zeros(size, device=device)
        self._map = torch.eye(size, device=device)

    @torch.no_grad()
    def see(self, features: Tensor, target: Tensor) -> None:
        """Take a batch's standardised features ``[B, D]`` and those of samples of y_t ``[T, D]``."""
        stays = min(MEMORY, self._batches / (self._batches + 1))
        features = features.float()
        self._covariance.lerp_(features.T @ features / len(features), 1 - stays)
        self._target.lerp_(target.float().mean(0), 1 - stays)
        if self._batches % EVERY == 0:
            values, vectors = torch.linalg.eigh(self._covariance)
            self._map = vectors * (values.clamp_min(0) + RIDGE).rsqrt() @ vectors.T
        self._batches += 1

    def distance(self, mixed: Tensor) -> Tensor:
        """Mean square of what is between watermark samples' standardised features ``[B, D]`` and y_t's mean."""
        return ((mixed - self._target) @ self._map).square().mean()
