"""Removals one after another, each on what the last one left: two or three in a row."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from hallmark.models import Network
from hallmark.removal import Means, RemovalParams, removal_params


class Params(RemovalParams):
    """Block of a ``stacked`` removal."""

    steps: Annotated[list[dict[str, Any]], Field(min_length=2, max_length=3)]
    """Blocks of removals, in their order."""

    @field_validator("steps")
    @classmethod
    def _flat(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any(step.get("method") == "stacked" for step in value):
            raise ValueError("a step is itself stacked; write its steps here")
        return value


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: a step's block is invalid (before anything is computed), or cannot be done.
    """
    parts = [means.part(f"steps.{k}") for k in range(len(params.steps))]
    steps = [removal_params(block, part.where) for block, part in zip(params.steps, parts, strict=True)]
    for (module, block), part in zip(steps, parts, strict=True):
        network = module.remove(network, part, block)
    return network
