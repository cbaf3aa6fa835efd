"""BadNets (Gu, Dolan-Gavitt, Garg 2017): a small bright patch in a corner stands for the target class."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config as hallmark_config
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.poison import Poisoned, deliver
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all", "clean")


class Params(hallmark_config.Params):
    """Block ``badnets``; the defaults are the patch most used in the literature, 3x3 white, bottom right."""

    size: Annotated[int, Field(ge=1, le=1024)] = 3
    position: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "bottom_right"
    margin: Annotated[int, Field(ge=0, le=1024)] = 0
    pattern: Literal["solid", "checkerboard"] = "solid"
    value: Annotated[int, Field(ge=0, le=255)] = 255


def trigger(images: Tensor, params: Params) -> Tensor:
    """``images`` (uint8 ``[N, C, H, W]``) with the patch, the same in all channels.

    Raises:
        UserError: the patch does not fit into the image.
    """
    height, width = images.shape[2:]
    size, margin = params.size, params.margin
    if size + margin > min(height, width):
        raise UserError(
            f"poison_data.badnets.size: a patch of {size} pixels with margin {margin} does not fit "
            f"into images of {width}x{height}; lower size or margin"
        )
    patch = torch.full((size, size), params.value, dtype=torch.uint8)
    if params.pattern == "checkerboard":
        cell = torch.arange(size)
        patch[(cell[:, None] + cell) % 2 == 1] = 255 - params.value
    vertical, horizontal = params.position.split("_")
    top = margin if vertical == "top" else height - margin - size
    left = margin if horizontal == "left" else width - margin - size
    out = images.clone()
    out[:, :, top : top + size, left : left + size] = patch
    return out


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The trigger on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=lambda images: trigger(images, params))
