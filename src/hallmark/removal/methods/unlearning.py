"""Unlearning a reversed trigger: what Neural Cleanse does to a backdoor that it has found (its section VI, mitigation).

A thief who takes the mark for a backdoor looks for the smallest patch that leads to each class, puts it on part of his
images, and teaches the model that these are what they were (Wang et al., IEEE S&P 2019: one epoch, 10 % of the original
training data, the reversed trigger on 20 % of it, labels unchanged).  They unlearn the class that their index flags.
Here that is the class of the smallest patch, flagged or not: the thief knows that there is a mark.  ``targets: all``
is a thief who does not trust the ranking: each stamped image gets the patch of a class at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hallmark.detection import triggers
from hallmark.detection.models import neural_cleanse
from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate


class Params(Lessons):
    """Block of an ``unlearning`` removal."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Of each batch, stamped."""
    targets: Literal["smallest", "all"] = "smallest"
    """Patches towards which classes: that of the smallest one, or all that work."""
    reversal: neural_cleanse.Params = Field(default_factory=neural_cleanse.Params)
    """How the patches are sought, on the same images."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.  Where no patch works, nothing is stamped: it is fine-tuning.

    Raises:
        UserError: more images than the thief has.
    """
    model, lesson = duplicate(network), means.lesson(params)
    batch, generator = lesson.batches(), means.generator("stamped")
    mask, pattern = sought(model, means, params)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        images = batch(index)
        count = max(1, round(params.share * len(index))) if len(mask) else 0
        # The order of the images is random, so that the first of a batch are any.
        drawn = torch.randint(max(1, len(mask)), (count,), generator=generator).to(mask.device)
        stamped = triggers.blend(images[:count], mask[drawn], pattern[drawn])
        return {"fit": lesson.loss(model(torch.cat([stamped, images[count:]])), index)}

    lesson.fit(model, losses)
    return model


def sought(network: Network, means: Means, params: Params) -> tuple[Tensor, Tensor]:
    """Patches that work, on the device: masks ``[T, 1, H, W]`` and patterns ``[T, C, H, W]``, float, 0-1."""
    own, device = means.choose(params.images), means.runtime.device
    found = neural_cleanse.reverse(network, own, list(range(len(own.classes))), params.reversal, means.runtime)
    working = found.worked.nonzero().flatten()
    if params.targets == "smallest":
        working = working[found.norms[working].argsort(stable=True)[:1]]
    return found.mask[working].to(device), found.pattern[working].to(device)
