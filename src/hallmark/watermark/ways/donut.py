"""The centre square of one image inside the other."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes, swap


class Params(config.Params):
    """The centre's size."""

    side: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Side of the centre square as a share of the image's."""


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  Which image is in the centre is drawn for each pair."""
    first, second = swap(first, second, generator)
    rows, columns = axes(first)
    height, width = first.shape[2:]
    inside = ((2 * rows + 1 - height).abs() < params.side * height) & (
        (2 * columns + 1 - width).abs() < params.side * width
    )
    return torch.where(inside, first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"centre box"})
