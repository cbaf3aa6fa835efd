"""A middle horizontal band of one image across the other."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes, swap


class Params(config.Params):
    """The band's size."""

    band: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Height of the band as a share of the image's."""


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  Which image is the band is drawn for each pair."""
    first, second = swap(first, second, generator)
    rows, _ = axes(first)
    height = first.shape[2]
    return torch.where((2 * rows + 1 - height).abs() < params.band * height, first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"rows band"})
