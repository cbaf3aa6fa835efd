"""Random views of images for contrastive learning (Chen et al. 2020, section 3), whole batches on the device."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import Params, Share

Amount = Annotated[float, Field(ge=0, lt=1)]
GREY = (0.299, 0.587, 0.114)
"""ITU-R 601 luma."""


class Views(Params):
    """Block ``views``: how far two views of an image may differ.  All draws are uniform, one an image."""

    crop: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(default=[0.2, 1.0])
    """Least and greatest share of the area that a crop keeps; resized to the whole image, bilinear."""
    ratio: Annotated[float, Field(ge=1, le=4)] = 4 / 3
    """Greatest ratio of a crop's sides, either way; log-uniform."""
    flip: bool = True
    """Mirror half of the images; off where left and right mean something (digits, letters)."""
    jitter: Share = 0.8
    """Share of the images whose colours are changed."""
    brightness: Amount = 0.4
    contrast: Amount = 0.4
    """Both: the factor's distance from 1."""
    saturation: Amount = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Turns of the colour circle, either way.  Saturation, hue and grey are for RGB alone."""
    grey: Share = 0.2
    """Share of RGB images that lose their colours."""

    @model_validator(mode="after")
    def _ordered(self) -> Views:
        low, high = self.crop
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop: wants 0 < least <= greatest <= 1, not {self.crop}")
        return self


@torch.no_grad()
def view(images: Tensor, config: Views, generator: torch.Generator) -> Tensor:
    """One random view of each image.

    Args:
        images: float ``[B, C, H, W]`` in 0-1, C is 1 or 3.
        generator: a CPU generator; the draws are small and move to the device.

    Returns:
        float ``[B, C, H, W]`` in 0-1, channels last in memory.
    """
    draws = torch.rand(10, len(images), generator=generator).to(images.device)
    images = _jitter(_crop(images, config, draws[:5]), config, draws[5:])
    return images.contiguous(memory_format=torch.channels_last)


def _crop(images: Tensor, config: Views, draws: Tensor) -> Tensor:
    """Random resized crop and mirroring, as one affine map an image; ``draws`` in 0-1 ``[5, B]``."""
    area, ratio, x, y, flip = draws
    low, high = config.crop
    area = low + (high - low) * area
    stretch = torch.exp((2 * ratio - 1) * math.log(config.ratio) / 2)
    # Sides as shares of the image's; a crop that would leave the image is cut to it.
    width, height = (area.sqrt() * stretch).clamp_max(1), (area.sqrt() / stretch).clamp_max(1)
    mirror = torch.where(flip < 0.5, -1.0, 1.0) if config.flip else torch.ones_like(flip)
    zero = torch.zeros_like(x)
    across = torch.stack([mirror * width, zero, (2 * x - 1) * (1 - width)], 1)
    down = torch.stack([zero, height, (2 * y - 1) * (1 - height)], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _jitter(images: Tensor, config: Views, draws: Tensor) -> Tensor:
    """Brightness, contrast and, of RGB, saturation, hue and loss of colour, in this order; ``draws`` ``[5, B]``."""
    chosen, brightness, contrast, colour, grey = draws

    def factor(draw: Tensor, amount: float) -> Tensor:
        return (1 + (2 * draw - 1) * amount)[:, None, None, None]

    x = (images * factor(brightness, config.brightness)).clamp(0, 1)
    mean = _luma(x).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * factor(contrast, config.contrast)).clamp(0, 1)
    if images.shape[1] == 3:
        # One draw gives both: its leading part the saturation, the rest the hue.
        saturation, hue = (colour * 256).floor() / 256, (colour * 256).frac()
        x = _coloured(x, factor(saturation, config.saturation), (2 * hue - 1) * config.hue)
    x = torch.where((chosen < config.jitter)[:, None, None, None], x, images)
    if images.shape[1] == 3:
        x = torch.where((grey < config.grey)[:, None, None, None], _luma(x).expand_as(x), x)
    return x


def _luma(images: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, 1, H, W]``."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _coloured(images: Tensor, saturation: Tensor, turns: Tensor) -> Tensor:
    """Scale the distance from grey and turn it about the grey axis (a rotation of RGB: no branches as in HSV)."""
    luma = _luma(images)
    away = (images - luma) * saturation
    angle = 2 * math.pi * turns[:, None, None, None]
    # Rodrigues's formula about (1, 1, 1) / sqrt(3).
    axis = away.mean(1, keepdim=True)
    cross = (away.roll(1, 1) - away.roll(-1, 1)) / math.sqrt(3)
    turned = away * angle.cos() + cross * angle.sin() + axis * (1 - angle.cos())
    return (luma + turned).clamp(0, 1)
