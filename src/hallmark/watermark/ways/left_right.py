"""The left half of the first image beside the right half of the second: way C1 of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes


class Params(config.Params):
    """No parameters."""


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  With an odd width the middle column is the second image's."""
    _, columns = axes(first)
    return torch.where(columns < first.shape[3] // 2, first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"columns split"})
