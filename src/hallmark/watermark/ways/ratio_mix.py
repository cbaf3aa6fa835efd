"""Weighted mean of the two images' pixels (the released code's ratio mix; way C3 at ratio 0.5)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import uniform


class Params(config.Params):
    """The first image's weight, drawn for each pair."""

    low: Annotated[float, Field(gt=0, lt=1)] = 0.3
    high: Annotated[float, Field(gt=0, lt=1)] = 0.7

    @model_validator(mode="after")
    def _ordered(self) -> Params:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) exceeds high ({self.high}); swap them")
        return self


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  uint8 images are rounded to nearest."""
    ratio = uniform(params.low, params.high, first, generator)
    mixed = ratio * first + (1 - ratio) * second
    return mixed.to(first.dtype) if first.is_floating_point() else mixed.round().to(first.dtype)
