"""Random resize and crop: a window of random size and place fills the image again.

The strength is the greatest share of each side that is cut away.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.data.dataset import to_float, to_uint8
from hallmark.evasion._evasion import Evasion, Means, Range

RANGE = Range(0.0, 0.8)


def prepare(means: Means, strength: float) -> Evasion:
    """Cut shares uniform between 0 and the strength, windows uniform over all that fit; bilinear, all in one batch."""

    def queries(images: Tensor) -> Tensor:
        drawn = torch.rand(len(images), 3, generator=means.generator)
        cut = strength * drawn[:, 0]
        place = (2 * drawn[:, 1:] - 1) * cut[:, None]
        theta = torch.zeros(len(images), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 - cut
        theta[:, :, 2] = place
        parts = [
            F.grid_sample(
                to_float(part),
                F.affine_grid(own, list(part.shape), align_corners=False),
                padding_mode="border",
                align_corners=False,
            )
            for part, own in zip(images.split(1000), theta.split(1000), strict=True)
        ]
        return to_uint8(torch.cat(parts))

    return Evasion(queries)
