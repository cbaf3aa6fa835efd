"""STRIP (Gao, Xu, Wang, Chen, Ranasinghe, Nepal 2019) at inference: queries of which the model stays sure when blended.

The threshold is the quantile of the trusted images' entropies (section IV-C) that costs ``false_alarm`` of them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from hallmark import models
from hallmark.config import Count
from hallmark.config import Params as _Params
from hallmark.detection.finding import Finding
from hallmark.detection.queries._log import Log
from hallmark.outliers import blended_entropy


class Params(_Params):
    """Block ``strip``; the paper blends with 100 images."""

    blends: Count = 20
    """Trusted images that each query is blended with: so many passes through the model a query."""
    weight: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of the query itself, its partner has the rest; null: both in full, which saturates, as in the paper."""
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Share of honest queries that are refused."""


def detect(log: Log, params: Params) -> Finding:
    """Refuse the queries whose blends are classified with too little doubt."""

    def entropy(images: Tensor, partners: Tensor, purpose: str) -> Tensor:
        return blended_entropy(
            lambda mixed: models.probabilities(log.network, mixed, log.runtime),
            images,
            partners,
            blends=params.blends,
            weight=params.weight,
            generator=log.runtime.generator(f"detection/strip/{purpose}"),
        )

    partners, others = (log.trusted.images[half] for half in log.halves)
    threshold = entropy(others, partners, "trusted").double().quantile(params.false_alarm)
    asked = entropy(log.images, partners, "asked")
    return log.refused(-asked, asked < threshold)
