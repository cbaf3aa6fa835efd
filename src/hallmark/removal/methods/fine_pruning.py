"""Fine-pruning (Liu et al. 2018): prune the channels that clean images leave dormant, then fine-tune what is left.

As in the paper the last convolution is pruned, in the order of its channels' mean activation (after ReLU) on clean
images.  The paper prunes until the accuracy on held-out images falls by 4 points; here ``share`` is given, so that no
second set is needed.  Pruned channels stay pruned while the rest is fine-tuned.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import prune

from hallmark import models
from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate


class Params(Lessons):
    """Block of a ``fine_pruning`` removal."""

    share: Annotated[float, Field(gt=0, lt=1)]
    """Of the last convolution's channels."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: more images than the thief has.
    """
    model, lesson = duplicate(network), means.lesson(params)
    layer = [module for module in model.trunk.modules() if isinstance(module, nn.Conv2d)][-1]
    activity = mean_activation(model, layer, lesson.images, means)
    kept = torch.ones_like(activity)
    kept[activity.argsort(stable=True)[: round(params.share * len(kept))]] = 0
    masks = {"weight": kept[:, None, None, None].expand_as(layer.weight)}
    masks |= {} if layer.bias is None else {"bias": kept}
    for name, mask in masks.items():
        prune.custom_from_mask(layer, name, mask)
    batch = lesson.batches()
    lesson.fit(model, lambda index: {"fit": lesson.loss(model(batch(index)), index)})
    for name in masks:
        prune.remove(layer, name)
    return model


def mean_activation(network: Network, layer: nn.Module, images: Tensor, means: Means) -> Tensor:
    """Mean over images and places of what ReLU leaves of a convolution's output: float32 ``[C]`` on the device."""
    sums: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: sums.append(output.relu().float().mean((2, 3)).sum(0)))
    try:
        models.features(network, images, means.runtime)
    finally:
        handle.remove()
    return torch.stack(sums).sum(0) / len(images)
