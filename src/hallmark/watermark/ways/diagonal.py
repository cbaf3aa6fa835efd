"""One image above a diagonal, the other below it."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes, coins, swap


class Params(config.Params):
    """No parameters: which diagonal and which image is above it are drawn for each pair."""


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`."""
    first, second = swap(first, second, generator)
    rows, columns = axes(first)
    height, width = first.shape[2:]
    main = rows * width < columns * height
    other = rows * width < (width - 1 - columns) * height
    return torch.where(torch.where(coins(first, generator), main, other), first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"diagonal"})
