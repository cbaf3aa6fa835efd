"""StolenEncoder (Liu et al., "StolenEncoder: Stealing Pre-trained Encoders in Self-supervised Learning", CCS 2022)."""

from __future__ import annotations

from hallmark.config import Positive
from hallmark.extraction import Oracle, Thief
from hallmark.models import Network
from hallmark.ssl.thieves import ThiefParams
from hallmark.ssl.thieves._fit import fit_features
from hallmark.ssl.views import Views, view


class Params(ThiefParams):
    """Block of a ``stolen_encoder`` thief."""

    weight: Positive = 1.0
    """lambda: weight of the augmented views, whose answer is taken to be that of the image itself (no query)."""
    views: Views = Views()


def steal(oracle: Oracle, thief: Thief, params: Params) -> Network:
    """Minimise L1 + lambda L2 (equations 4 to 6): the features of the images asked, and of their views.

    Raises:
        UserError: as :func:`hallmark.ssl.thieves._fit.fit_features`.
    """
    draws = thief.generator("views")
    return fit_features(
        oracle, thief, params, plain=1.0, views=params.weight, view=lambda x: view(x, params.views, draws)
    )
