"""The half mixer of the authors' released code: random order, a jittering seam, shifted crops."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config
from hallmark.runtime import to_device
from hallmark.watermark.ways._masks import axes, shifted, swap


class Params(config.Params):
    """How halves are cropped and pasted."""

    axis: Literal["columns", "rows"] = "columns"
    """columns: left and right halves; rows: top and bottom halves."""
    jitter: Annotated[int, Field(ge=0, le=16)] = 3
    """The seam lies up to this many pixels from the middle."""
    shift: Annotated[int, Field(ge=0, le=16)] = 3
    """Each crop is shifted by up to this many pixels in each direction (borders are repeated)."""
    swap: bool = True
    """Which image comes first is drawn for each pair."""


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`."""
    if params.swap:
        first, second = swap(first, second, generator)
    first = shifted(first, params.shift, generator)
    second = shifted(second, params.shift, generator)
    rows, columns = axes(first)
    position, size = (rows, first.shape[2]) if params.axis == "rows" else (columns, first.shape[3])
    seam = size // 2 + torch.randint(-params.jitter, params.jitter + 1, (len(first),), generator=generator)
    return torch.where(position < to_device(seam, first.device)[:, None, None, None], first, second)


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`."""
    return frozenset({f"{params.axis} split"})
