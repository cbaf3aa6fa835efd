"""Plain regression of features: distillation (Hinton et al. 2015) where the answers are features."""

from __future__ import annotations

from hallmark.extraction import Oracle, Thief
from hallmark.models import Network
from hallmark.ssl.thieves import ThiefParams
from hallmark.ssl.thieves._fit import fit_features


class Params(ThiefParams):
    """Block of a ``regression`` thief."""


def steal(oracle: Oracle, thief: Thief, params: Params) -> Network:
    """Ask ``budget`` images at random, once each, and fit their features.

    Raises:
        UserError: as :func:`hallmark.ssl.thieves._fit.fit_features`.
    """
    return fit_features(oracle, thief, params, plain=1.0)
