"""Quantization of the weights to few bits: what deployment does to every model, and a thief by the way.

What is done, exactly: every weight of a convolution or linear layer is replaced by the nearest of 2^bits - 1 values,
evenly spaced and symmetric around zero, with one scale for each output channel (the channel's largest weight);
PyTorch's own ``fake_quantize_per_channel_affine`` does it.  The model then still computes in float: this is int8
*weight* quantization simulated, with the accuracy of a model whose weights are stored in int8 and whose activations
are not quantized.  Biases, normalisation and activations stay.  Nothing is calibrated and nothing is trained.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hallmark.models import Network
from hallmark.removal import Means, RemovalParams, duplicate


class Params(RemovalParams):
    """Block of a ``quantization`` removal."""

    bits: Annotated[int, Field(ge=2, le=8)] = 8


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`; draws nothing."""
    model = duplicate(network)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(rounded(module.weight, params.bits))
    return model


def rounded(weight: Tensor, bits: int) -> Tensor:
    """The nearest values of a symmetric grid with one scale for each row of ``weight`` ``[C, ...]``."""
    largest = (1 << (bits - 1)) - 1
    # A row of zeros would have no scale.
    scale = weight.detach().abs().flatten(1).amax(1).clamp_min(torch.finfo(torch.float32).tiny * largest) / largest
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.detach(), scale, zero, 0, -largest, largest)
