"""Weighted mean of the two images' pixels: the released code's ratio mix, and way C3 of the paper.

The paper's pixel merging, alpha times one image and 1 - alpha times the other, is ``low`` = ``high`` = alpha (0.5
there): then nothing is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.watermark.ways._masks import uniform
from hallmark.watermark.ways._range import Range, Share


class Params(Range):
    """The first image's weight, drawn for each pair; ``low`` = ``high`` fixes it."""

    low: Share = 0.3
    high: Share = 0.7


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  uint8 images are rounded to nearest."""
    ratio = uniform(params.low, params.high, first, generator)
    mixed = ratio * first + (1 - ratio) * second
    return mixed.to(first.dtype) if first.is_floating_point() else mixed.round().to(first.dtype)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"pixel blend"})
