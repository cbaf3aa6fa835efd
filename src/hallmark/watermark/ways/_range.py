"""The range of a share that a way draws for each pair."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hallmark import config

Share = Annotated[float, Field(gt=0, lt=1)]


class Range(config.Params):
    """A share between 0 and 1, drawn from ``[low, high)``; a way gives the defaults."""

    low: Share
    high: Share

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) exceeds high ({self.high}); swap them")
        return self
