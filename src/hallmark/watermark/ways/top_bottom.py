"""The top half of the first image over the bottom half of the second: way C1, horizontally cut."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes


class Params(config.Params):
    """No parameters."""


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  With an odd height the middle row is the second image's."""
    rows, _ = axes(first)
    return torch.where(rows < first.shape[2] // 2, first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"rows split"})
