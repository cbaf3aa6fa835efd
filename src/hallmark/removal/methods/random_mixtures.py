"""Fine-tuning on randomly mixed samples with wrong labels: MEA-Defender's adaptive attack (section VI).

The thief knows the method but not the key: he mixes his own images of any two classes in any way and teaches the model
that the mixture is a class that is in neither image.  Beside them the model learns his images as they are, or it
would forget the task.  Defaults: as many mixtures as images, all ways to combine that need no training; the paper says
neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import NonNegative, Positive
from hallmark.data.dataset import to_float
from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate
from hallmark.watermark.ways import untrained, ways


class Params(Lessons):
    """Block of a ``random_mixtures`` removal."""

    ways: list[str] | Literal["all"] = "all"
    """Ways to combine, of :mod:`hallmark.watermark.ways`; all: those that need no training."""
    share: Positive = 1.0
    """Mixtures for each image of a batch."""
    weight: NonNegative = 1.0
    """Of the mixtures' loss."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: more images than the thief has, or no such way.
    """
    model, lesson = duplicate(network), means.lesson(params)
    batch, generator = lesson.batches(), means.generator("mixtures")
    named = [ways.get(name) for name in (untrained() if params.ways == "all" else params.ways)]
    told = lesson.targets.argmax(1)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        # Two images of one class are no mixture; four draws for each that is wanted are enough.
        count = max(1, round(params.share * len(index)))
        pairs = torch.randint(len(told), (2, 4 * count), generator=generator).to(told.device)
        pairs = pairs[:, told[pairs[0]] != told[pairs[1]]][:, :count]
        first, second = (to_float(lesson.images[k]) for k in pairs)
        mixed = torch.empty_like(first)
        for k, module in enumerate(named):
            if len(first[k :: len(named)]):
                mixed[k :: len(named)] = module.combine(
                    first[k :: len(named)], second[k :: len(named)], module.Params(), generator
                )
        wrong = wrong_labels(told[pairs].T, lesson.targets.shape[1], generator)
        return {
            "fit": lesson.loss(model(batch(index)), index),
            "mixtures": params.weight * F.cross_entropy(model(mixed).float(), wrong, reduction="sum") / count,
        }

    lesson.fit(model, losses)
    return model


def wrong_labels(right: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each row of int64 ``[N, M]`` a class at random that is not in it: int64 ``[N]``.

    Args:
        classes: more than M.
    """
    scores = torch.rand(len(right), classes, generator=generator).to(right.device)
    return scores.scatter(1, right, -1.0).argmax(1)
