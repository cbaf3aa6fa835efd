"""Theft of encoders: fit a network of one's own to the features that the victim answers (encoder as a service).

Each thief is one module of this package with ``Params`` and ``steal(oracle, thief, params)``.  Images of one's own are
asked once each, as in :mod:`hallmark.extraction`; what differs is that the answers are features and not probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import field_validator

from hallmark.config import Architecture, Count, Params, Training, parse
from hallmark.extraction.transfer import OwnImages
from hallmark.registry import Registry

registry = Registry("hallmark.ssl.thieves", "thief of encoders", ("Params", "steal"))


class ThiefParams(Params):
    """What every thief's ``Params`` begins with."""

    method: str
    """The module of :mod:`hallmark.ssl.thieves`."""
    budget: Count
    """Images that the thief may ask the victim, one feature vector each."""
    architecture: Architecture
    training: Training
    images: OwnImages = None

    @field_validator("training")
    @classmethod
    def _answers_belong_to_images(cls, value: Training) -> Training:
        if value.flip or value.shift or value.mix != "none":
            raise ValueError("flip, shift, mix: an answer belongs to its image as asked; stolen_encoder has views")
        return value


def thief_params(block: Mapping[str, Any], where: str) -> tuple[ModuleType, ThiefParams]:
    """A thief's module and its typed block.

    Raises:
        UserError: unknown method, or the block is invalid.
    """
    module = registry.get(str(block.get("method")))
    return module, parse(module.Params, block, where)
