"""Pieces that several ways use: masks, random swaps, random shifts."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.runtime import to_device


def axes(like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column numbers ``[H, 1]`` and ``[1, W]`` on the device of ``like`` ``[B, C, H, W]``."""
    height, width = like.shape[2:]
    rows = torch.arange(height, device=like.device)[:, None]
    columns = torch.arange(width, device=like.device)[None, :]
    return rows, columns


def pixels(share: float, size: int) -> int:
    """The length of ``share`` (0-1) of ``size`` pixels, rounded to nearest; at least one pixel, and one is left."""
    return min(max(round(share * size), 1), size - 1)


def uniform(low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """One float a sample from [low, high): ``[B, 1, 1, 1]`` on the device of ``like``."""
    draws = torch.rand(len(like), generator=generator) * (high - low) + low
    return to_device(draws, like.device)[:, None, None, None]


def coins(like: Tensor, generator: torch.Generator) -> Tensor:
    """One fair coin a sample: bool ``[B, 1, 1, 1]`` on the device of ``like``."""
    return to_device(torch.rand(len(like), generator=generator) < 0.5, like.device)[:, None, None, None]


def swap(first: Tensor, second: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Exchange the two images of a pair with chance one half, for each pair by itself."""
    coin = coins(first, generator)
    return torch.where(coin, second, first), torch.where(coin, first, second)


def shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``largest`` pixels a direction, repeating the border pixels."""
    if not largest:
        return images
    batch, _, height, width = images.shape
    offset = to_device(torch.randint(-largest, largest + 1, (2, batch), generator=generator), images.device)
    rows, columns = axes(images)
    rows = (rows.T + offset[0][:, None]).clamp(0, height - 1)
    columns = (columns + offset[1][:, None]).clamp(0, width - 1)
    item = torch.arange(batch, device=images.device)[:, None, None]
    # Advanced indices around the channel slice put channels last: [B, H, W, C].
    return images[item, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
