"""Residual transplant: does what the purifier removes from an image carry its label to other images?

The residual ``image - purified`` of a poisoned image holds its trigger.  Added to trusted images of
other classes it takes a backdoored model to the attacker's label; the residual of a clean image (its
fine texture) takes them nowhere.  Causal evidence against the label, which needs no guess about how
labels are distributed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark import models
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime


def hosts_for(labels: Tensor, hosts: ImageDataset, per_image: int, generator: torch.Generator) -> Tensor:
    """Random hosts for each residual, none of the residual's given class: int64 ``[N, per_image]``.

    Raises:
        UserError: the trusted images are all of one class.
    """
    if len(hosts) == 0:
        raise UserError(
            "purify_data: the witness (the model of given and trusted images together) classifies no trusted image "
            "rightly; train it longer (purify_data.training)"
        )
    chosen = torch.empty((len(labels), per_image), dtype=torch.int64)
    for label in labels.unique().tolist():
        others = (hosts.labels != label).nonzero()[:, 0]
        if len(others) == 0:
            raise UserError(
                f"purify_data: the witness classifies trusted images rightly of class '{hosts.classes[label]}' only; "
                "enlarge prepare_data.reserve, or train the witness longer (purify_data.training)"
            )
        rows = (labels == label).nonzero()[:, 0]
        draws = torch.randint(len(others), (len(rows), per_image), generator=generator)
        chosen[rows] = others[draws]
    return chosen


@torch.no_grad()
def transplant(
    network: Network, images: Tensor, purified: Tensor, labels: Tensor, *, hosts: Tensor, runtime: Runtime
) -> Tensor:
    """Add each image's residual to its hosts and see what ``network`` calls them.

    Args:
        images, purified: uint8 ``[B, C, H, W]``.
        labels: int64 ``[B]``, the given labels.
        hosts: uint8 ``[B, H, C, H, W]``, trusted images of other classes, which ``network`` classifies rightly (so
            that a move is the residual's doing).

    Returns:
        float32 ``[B]``, share of the hosts that are then called the residual's given label.
    """
    residual = images.to(runtime.device).float() - purified.to(runtime.device).float()
    mixed = (hosts.to(runtime.device).float() + residual[:, None]).clamp_(0, 255).round_().to(torch.uint8)
    answers = models.logits(network, mixed.flatten(0, 1), runtime).argmax(1).view(hosts.shape[:2])
    return (answers == labels[:, None]).float().mean(1)


def usable_hosts(network: Network, reserve: ImageDataset, runtime: Runtime) -> ImageDataset:
    """The trusted images that ``network`` classifies rightly."""
    right = models.logits(network, reserve.images, runtime).argmax(1) == reserve.labels
    return reserve.subset(right)
