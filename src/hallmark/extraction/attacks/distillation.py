"""Distillation (Hinton et al. 2015): ask the victim for the thief's own images, fit the softened answers."""

from __future__ import annotations

from hallmark.config import Positive
from hallmark.extraction import AttackParams, Oracle, Thief
from hallmark.models import Network


class Params(AttackParams):
    """Block of a ``distillation`` attack."""

    temperature: Positive
    """Softens the answers and the student; 1 fits the answers as they are."""


def steal(oracle: Oracle, thief: Thief, params: Params) -> Network:
    """Ask ``budget`` images at random, once each.

    Raises:
        UserError: the budget exceeds the thief's images.
    """
    images = thief.data.images[thief.choose(params.budget, "budget")]
    network = thief.network(params.architecture)
    thief.fit(network, images, oracle(images), params.training, params.temperature)
    return network
