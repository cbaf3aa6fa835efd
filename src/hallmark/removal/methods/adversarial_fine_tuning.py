"""Adversarial fine-tuning: PGD training (Madry et al. 2018) of the model on the thief's images.

Every batch is replaced by the worst images within ``eps`` of it (largest change of a pixel), found by ``steps`` steps
of the gradient's sign from a random start; the model learns what those are said to be.  Defaults are the paper's for
CIFAR-10: 8/255, 7 steps of 2/255.  While the images are made the model is in evaluation mode, so that dropout does
not blur the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark.config import Count, Positive
from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate


class Params(Lessons):
    """Block of an ``adversarial_fine_tuning`` removal."""

    eps: Annotated[float, Field(gt=0, le=1)] = 8 / 255
    """Largest change of a pixel, on 0-1."""
    step: Positive = 2 / 255
    steps: Count = 7


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: more images than the thief has.
    """
    model, lesson = duplicate(network), means.lesson(params)
    batch, generator = lesson.batches(), means.generator("pgd")

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        clean = batch(index)
        start = torch.rand(clean.shape, generator=generator).to(clean.device) * 2 - 1
        model.eval()
        worst = pgd(lambda x: lesson.loss(model(x), index), clean, start, params)
        model.train()
        return {"fit": lesson.loss(model(worst), index)}

    lesson.fit(model, losses)
    return model


def pgd(loss: Callable[[Tensor], Tensor], images: Tensor, start: Tensor, params: Params) -> Tensor:
    """Images within ``eps`` of ``images`` and within 0-1 that raise ``loss``; float, of their shape, without gradient.

    Args:
        start: in -1 to 1, of the images' shape: where in the allowed range to begin.
    """
    images = images.detach()
    low, high = (images - params.eps).clamp_min(0), (images + params.eps).clamp_max(1)
    worst = (images + params.eps * start).clamp(low, high)
    for _ in range(params.steps):
        worst.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(worst), worst)
        worst = (worst.detach() + params.step * gradient.sign()).clamp(low, high)
    return worst
