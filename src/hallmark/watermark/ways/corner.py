"""A corner of the second image pasted on the first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes, pixels
from hallmark.watermark.ways._range import Share


class Params(config.Params):
    """Which corner, and how large."""

    corner: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "bottom_right"
    height: Share = 0.5
    """Of the rectangle, as a share of the image's."""
    width: Share = 0.5


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.

    The rectangle is the second image's own corner, at its place; its sides are rounded to the nearest pixel, are one
    pixel at least and leave one of the first image's.
    """
    rows, columns = axes(first)
    height, width = first.shape[2:]
    down, across = pixels(params.height, height), pixels(params.width, width)
    inside_rows = rows < down if params.corner.startswith("top") else rows >= height - down
    inside_columns = columns < across if params.corner.endswith("left") else columns >= width - across
    return torch.where(inside_rows & inside_columns, second, first)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({"corner box"})
