"""Stripes of the two images in turn: way C4 of the paper.

The image is cut into ``count`` stripes along ``axis``: pixel p of ``size`` lies in stripe p x count // size, so that
widths differ by at most one pixel.  ``share`` of the stripes are the first image's, the others the second's, each at
its own place.  The paper has five column stripes, "three of one class and two of the other, chosen at random".

Which stripes are the first image's: with ``order: fixed`` the same for all pairs, a choice that belongs to the key.
All choices are numbered from 0 in lexicographic order of the first image's stripes, and ``pattern`` is the number: of
the ten with three stripes of five, 0 is AAABB, 4 ABABA, 9 BBAAA.  With ``order: random`` every pair draws one of them,
all equally likely, and ``pattern`` is not read.
"""

from __future__ import annotations

import math
from itertools import combinations, islice, pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark import config
from hallmark.errors import UserError
from hallmark.runtime import to_device
from hallmark.watermark.ways._masks import axes


class Params(config.Params):
    """How the stripes lie and whose they are."""

    axis: Literal["rows", "columns"] = "columns"
    """columns: stripes side by side; rows: stripes above each other."""
    count: Annotated[int, Field(ge=2, le=16)] = 5
    share: Annotated[int, Field(ge=1, le=15)] = 3
    """How many of the stripes the first image has."""
    order: Literal["fixed", "random"] = "fixed"
    pattern: Annotated[int, Field(ge=0)] = 4
    """With ``order: fixed``: the number of the choice; 4 is ABABA."""

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.share >= self.count:
            raise ValueError(f"share ({self.share}) leaves the second image none of {self.count} stripes; lower share")
        choices = math.comb(self.count, self.share)
        if self.order == "fixed" and self.pattern >= choices:
            raise ValueError(
                f"pattern ({self.pattern}) is out of range 0..{choices - 1}, the choices of {self.share} among "
                f"{self.count} stripes"
            )
        return self

    def arrangement(self) -> tuple[bool, ...]:
        """Of the fixed order: whether each stripe is the first image's."""
        own = next(islice(combinations(range(self.count), self.share), self.pattern, None))
        return tuple(stripe in own for stripe in range(self.count))


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`."""
    rows, columns = axes(first)
    position, size = (rows, first.shape[2]) if params.axis == "rows" else (columns, first.shape[3])
    stripe = position * params.count // size
    if params.order == "fixed":
        own = to_device(torch.tensor(params.arrangement()), first.device)[stripe]
    else:
        ranks = torch.rand(len(first), params.count, generator=generator).argsort(dim=1, stable=True)
        # An order drawn at random puts the numbers below ``share`` into any stripes equally often.
        own = to_device(ranks < params.share, first.device)[:, None, stripe]
    return torch.where(own, first, second)


def check(params: Params, shape: tuple[int, int, int]) -> None:
    """Raises UserError: images of ``shape`` have fewer pixels along the axis than there are stripes."""
    size = shape[1] if params.axis == "rows" else shape[2]
    if params.count > size:
        raise UserError(f"{params.count} stripes do not fit into {size} {params.axis}; lower count")


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`: few stripes may be two halves, or a band."""
    kinds, seams = {f"{params.axis} stripes"}, {1, 2}
    if params.order == "fixed":
        seams = {sum(a != b for a, b in pairwise(params.arrangement()))}
    if 1 in seams:
        kinds.add(f"{params.axis} split")
    if 2 in seams:
        kinds.add(f"{params.axis} band")
    return frozenset(kinds)
