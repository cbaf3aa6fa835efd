"""Magnitude pruning: the weights nearest to zero become zero (Han et al. 2015), by ``torch.nn.utils.prune``.

MEA-Defender prunes 10 to 90 % (section VI); its text does not say whether each layer loses that share or the network
as a whole, so both are here.  Weights of convolutions and linear layers count, the last layer's too; biases and
normalisation stay.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import prune

from hallmark.models import Network
from hallmark.removal import Means, RemovalParams, duplicate


class Params(RemovalParams):
    """Block of a ``pruning`` removal."""

    amount: Annotated[float, Field(gt=0, lt=1)]
    """Share of the weights."""
    scope: Literal["global", "layer"] = "global"
    """Whether the smallest weights of the network go, or those of each layer."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`; draws nothing and trains nothing."""
    # PyTorch's global pruning flattens weights as they lie in memory, which channels_last does not allow.
    model = duplicate(network).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if params.scope == "global":
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=params.amount)
    else:
        for layer in layers:
            prune.l1_unstructured(layer, "weight", amount=params.amount)
    for layer in layers:
        prune.remove(layer, "weight")  # makes it permanent: the mask is gone, the zeros stay
    return model.to(memory_format=torch.channels_last)
