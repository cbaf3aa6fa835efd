"""Gaussian blur; the strength is its deviation in pixels."""

from __future__ import annotations

import math

from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from hallmark.evasion._evasion import Evasion, Means, Range

RANGE = Range(0.1, 4.0)


def prepare(means: Means, strength: float) -> Evasion:
    """torchvision's blur over three deviations to either side, as far as the image allows."""

    def queries(images: Tensor) -> Tensor:
        reach = min(math.ceil(3 * strength), min(images.shape[2:]) - 1)
        return gaussian_blur(images, [2 * reach + 1] * 2, [strength] * 2)

    return Evasion(queries)
