"""WRK, the Watermark Removal attacK of Xiao et al. ("Class-feature Watermark", arXiv 2511.07947, AAAI 2026).

Two parts, told in our own words after the paper and its released code:

- *boundary reshaping*: clean images are moved one step of the gradient's sign toward a class drawn at random (over
  all classes, for the thief does not know the mark's), and relabelled as any class but their own. Learning them
  breaks up the boundaries on which the mark's samples lie;
- *feature shifting*: the last layer is drawn afresh, and its likeness to the old one (the cosine between the two) is
  penalised, so that features must move.

Beside these the model learns the clean images.  Defaults: step 0.15 and one relabelled image for five clean ones, as
in the released code (640 beside 2,500, 5 % of CIFAR-10's training images); about 10 epochs.  Deviations: the released
code relabels for 3 epochs and then fine-tunes for 15, this is one training with all losses, and the relabelled images
are made once, from the model as it was stolen, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark.config import NonNegative, Share
from hallmark.data.dataset import to_float
from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate, reinitialise_head
from hallmark.removal.methods.random_mixtures import wrong_labels

BATCH = 128
"""Images that are moved toward one class, as in the released code."""


class Params(Lessons):
    """Block of a ``wrk`` removal."""

    step: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Change of every pixel of a relabelled image, on 0-1."""
    relabelled: Share = 0.2
    """Relabelled images for each clean one."""
    shift: NonNegative = 0.1
    """Weight of the likeness to the old last layer; ours."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: more images than the thief has.
    """
    model, lesson = duplicate(network), means.lesson(params)
    batch, generator = lesson.batches(), means.generator("relabelled")
    classes = lesson.targets.shape[1]
    count = max(1, round(params.relabelled * len(lesson.images)))
    moved = toward_random_classes(model, to_float(lesson.images[:count]), params.step, classes, generator)
    wrong = wrong_labels(lesson.targets[:count].argmax(1, keepdim=True), classes, generator)
    old = _weights(model).detach().clone()
    reinitialise_head(model, means)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        chosen = torch.randint(count, (max(1, round(params.relabelled * len(index))),), generator=generator)
        chosen = chosen.to(wrong.device)
        return {
            "fit": lesson.loss(model(batch(index)), index),
            "relabelled": params.relabelled * F.cross_entropy(model(moved[chosen]).float(), wrong[chosen]),
            "shift": params.shift * F.cosine_similarity(_weights(model), old, dim=0),
        }

    lesson.fit(model, losses)
    return model


def toward_random_classes(
    network: Network, images: Tensor, step: float, classes: int, generator: torch.Generator
) -> Tensor:
    """Float images ``[N, C, H, W]`` in 0-1, moved ``step`` along the sign of the gradient of a random class's logit.

    Each part of :data:`BATCH` images has one class.
    """
    parts = images.split(BATCH)
    drawn = torch.randint(classes, (len(parts),), generator=generator).tolist()
    moved = []
    for part, label in zip(parts, drawn, strict=True):
        x = part.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(x).float()[:, label].sum(), x)
        moved.append((x.detach() + step * gradient.sign()).clamp(0, 1))
    return torch.cat(moved)


def _weights(network: Network) -> Tensor:
    """The last layer's, as one vector."""
    head = network.head
    assert isinstance(head, nn.Linear)  # as every architecture's is
    return head.weight.flatten()
