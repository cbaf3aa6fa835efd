"""Gaussian noise on every query (MEA-Defender, section on input noise); the strength is its deviation, on 0-1."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.data.dataset import to_float, to_uint8
from hallmark.evasion._evasion import Evasion, Means, Range

RANGE = Range(0.0, 0.5)


def prepare(means: Means, strength: float) -> Evasion:
    """Fresh noise for every pixel of every query, clamped and rounded to 8 bits."""

    def queries(images: Tensor) -> Tensor:
        return to_uint8(to_float(images) + strength * torch.randn(images.shape, generator=means.generator))

    return Evasion(queries)
