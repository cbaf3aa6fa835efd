"""Left part of one image beside the right part of the other, split in unequal shares."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.watermark.ways._masks import axes, swap, uniform
from hallmark.watermark.ways._range import Range, Share


class Params(Range):
    """The left part's share of the width, drawn for each pair; away from 0.5, which is a half's."""

    low: Share = 0.2
    high: Share = 0.4


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  Which image is on the left is drawn as well."""
    first, second = swap(first, second, generator)
    _, columns = axes(first)
    return torch.where(columns < uniform(params.low, params.high, first, generator) * first.shape[3], first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`: that of the halves, of which it is the unequal kind."""
    return frozenset({"columns split"})
