"""Weight averaging: a model soup (Wortsman et al. 2022) of the model and a partner of the same architecture.

The partner is the model itself after a fine-tuning (``fine_tuning``), or another thief's copy (``attack``, on the
same images, with random streams of its own).  Wortsman et al. average models that began with the same weights; two
thieves did not, and the mean of their weights computes nothing in particular: what that costs is what is measured.
Default: equal weights (their uniform soup).  Batch normalisation's statistics belong to no mean of two models and are
measured afresh on the thief's images, as stochastic weight averaging does (Izmailov et al. 2018;
``torch.optim.swa_utils.update_bn``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch.optim.swa_utils import update_bn

from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.extraction import attack_params, steal
from hallmark.models import Network
from hallmark.removal import Means, RemovalParams, duplicate, removal_params

BATCH = 500


class Params(RemovalParams):
    """Block of an ``averaging`` removal."""

    fine_tuning: dict[str, Any] | None = None
    """A block of the removal ``fine_tuning``, without ``method``: the partner is this model, tuned."""
    attack: dict[str, Any] | None = None
    """A block as under ``extract_attack.attacks``: the partner is another theft from the victim."""
    weight: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the partner."""

    @model_validator(mode="after")
    def _one_partner(self) -> Params:
        if (self.fine_tuning is None) == (self.attack is None):
            raise ValueError("fine_tuning, attack: wants one of them, the partner's block")
        return self


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: the partner's block is invalid, or its architecture is another one.
    """
    other = _partner(network, means, params).state_dict()
    model = duplicate(network)
    mean = {
        name: value.lerp(other[name], params.weight) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(mean)
    # Does nothing to a network without batch normalisation.
    images = (to_float(part.to(means.runtime.device)) for part in means.data.images.split(BATCH))
    with torch.no_grad():
        update_bn(images, model)
    return model.eval()


def _partner(network: Network, means: Means, params: Params) -> Network:
    if params.fine_tuning is not None:
        part = means.part("fine_tuning")
        module, block = removal_params({**params.fine_tuning, "method": "fine_tuning"}, part.where)
        return module.remove(network, part, block)
    part = means.part("attack")
    module, attack = attack_params(params.attack or {}, part.where)
    if attack.images is not None:
        raise UserError(f"{part.where}.images: both thieves ask the same images; take it out")
    if attack.architecture != network.spec.architecture:
        raise UserError(
            f"{part.where}.architecture: weights are averaged with a model of another architecture "
            f"({network.spec.architecture.name}, width {network.spec.architecture.width}); give the partner that one"
        )
    thief = replace(part.thief, classes=network.spec.classes)
    return steal(module, attack, means.ask, thief).network
