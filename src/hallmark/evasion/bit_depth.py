"""Feature squeezing by bit depth (Xu, Evans, Qi 2018): the strength is the number of bits taken away, of 8."""

from __future__ import annotations

from torch import Tensor

from hallmark.data.dataset import to_float, to_uint8
from hallmark.evasion._evasion import Evasion, Means, Range

RANGE = Range(0.0, 7.0, whole=True)


def prepare(means: Means, strength: float) -> Evasion:
    """Rounded to the nearest of 2^bits levels over 0-1, the ends among them."""
    top = (1 << (8 - round(strength))) - 1

    def queries(images: Tensor) -> Tensor:
        return to_uint8((to_float(images) * top).round() / top)

    return Evasion(queries)
