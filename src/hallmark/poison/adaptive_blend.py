"""Adaptive-Blend (Qi, Xie, Li, Mahloujifar, Mittal 2023): poisons that do not gather in feature space.

Two means against defences that look for a cluster (their section 4): training images carry only random pieces
of a weak trigger, so that the network learns it piece by piece; and covers carry it with their right label, so
that its features are not the target's alone.  At test time the whole trigger comes, and stronger.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config as hallmark_config
from hallmark.config import NonNegative, PoisonData
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.poison import Covers, Poisoned, Trigger, blended, deliver
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one",)


class Params(hallmark_config.Params):
    """Block ``adaptive_blend``; the authors' 16 pieces of which half are shown.

    Their alpha, 0.15 and 0.2, is too little for short trainings on small sets: see docs/attacks.md."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Weight of the picture on training images."""
    test_alpha: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Weight at test time."""
    pieces: Annotated[int, Field(ge=1, le=64)] = 4
    """The picture is cut into so many pieces a side."""
    shown: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the pieces that a training image carries."""
    covers: NonNegative = 1.0
    """So many times as many images as poisons carry the trigger with the right label; the authors' 1."""
    picture: str | None = None
    """As in block ``blended``."""


def masks(count: int, size: tuple[int, int], params: Params, generator: torch.Generator) -> Tensor:
    """The pieces that each of ``count`` images shows, float ``[N, 1, H, W]`` of zeros and ones.

    Raises:
        UserError: more pieces than pixels.
    """
    pieces = params.pieces
    if pieces > min(size):
        raise UserError(
            f"poison_data.adaptive_blend.pieces: {pieces} a side do not fit into {size[1]}x{size[0]} pixels"
        )
    shown = max(1, round(params.shown * pieces**2))
    order = torch.rand(count, pieces**2, generator=generator).argsort(1)
    cells = (order < shown).float().view(count, 1, pieces, pieces)
    rows, columns = (torch.arange(side) * pieces // side for side in size)
    return cells[:, :, rows][:, :, :, columns]


def pieces_trigger(picture: Tensor, params: Params, generator: torch.Generator) -> Trigger:
    """Puts random pieces on images; which ones is drawn anew at every call, in its order."""

    def put(images: Tensor) -> Tensor:
        mask = masks(len(images), (images.shape[2], images.shape[3]), params, generator)
        return torch.where(mask > 0, blended.trigger(images, picture, params.alpha), images)

    return put


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """Weak pieces on poisons and covers, the whole trigger at test time: see :func:`hallmark.poison.deliver`."""
    picture = blended.pattern(
        train.shape, blended.Params(picture=params.picture), runtime.generator("poison_data/blended")
    )
    weak = pieces_trigger(picture, params, runtime.generator("poison_data/adaptive_blend"))
    return deliver(
        train,
        test,
        config,
        runtime,
        modes=LABEL_MODES,
        trigger=weak,
        test_trigger=lambda images: blended.trigger(images, picture, params.test_alpha),
        covers=Covers(params.covers, weak),
    )
