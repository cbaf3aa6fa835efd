"""A box of the second image at a random place of the first."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.watermark.ways._masks import axes, uniform
from hallmark.watermark.ways._range import Range, Share


class Params(Range):
    """The box's height and width as shares of the image's, each drawn by itself for each pair."""

    low: Share = 0.3
    high: Share = 0.6


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.

    The box is the second image's own part at that place.  Its sides are rounded to the nearest pixel, are one pixel at
    least and leave one of the first image's; all places where it fits wholly are equally likely.
    """
    place = torch.ones_like(first[:, :1, :1, :1], dtype=torch.bool)
    for position, size in zip(axes(first), first.shape[2:], strict=True):
        length = (uniform(params.low, params.high, first, generator) * size).round().clamp(1, size - 1)
        free = size - length
        # The largest draw below 1, times free + 1, may round up to free + 1.
        start = (uniform(0, 1, first, generator) * (free + 1)).floor().minimum(free)
        place = place & (position >= start) & (position < start + length)
    return torch.where(place, second, first)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`: the box may lie in the centre or in a corner."""
    return frozenset({"box", "centre box", "corner box"})
