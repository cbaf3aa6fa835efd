"""Left part of one image beside the right part of the other, split in unequal shares."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark import config
from hallmark.watermark.ways._masks import axes, swap, uniform

Part = Annotated[float, Field(gt=0, lt=1)]


class Params(config.Params):
    """The left part's share of the width, drawn for each pair; away from 0.5, which is a half's."""

    low: Part = 0.2
    high: Part = 0.4

    @model_validator(mode="after")
    def _ordered(self) -> Params:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) exceeds high ({self.high}); swap them")
        return self


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  Which image is on the left is drawn as well."""
    first, second = swap(first, second, generator)
    _, columns = axes(first)
    return torch.where(columns < uniform(params.low, params.high, first, generator) * first.shape[3], first, second)
