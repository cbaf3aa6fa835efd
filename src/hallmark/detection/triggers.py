"""Triggers found by gradient descent, one a candidate, all at once: what Neural Cleanse and ABS share.

A trigger is a mask m and a pattern: a stamped image is (1 - m) x + m pattern (Neural Cleanse, equation 2), with one
mask for all channels.  The candidates' triggers lie along the first dimension and the network sees one batch of
candidates times images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark.data.dataset import ImageDataset, to_float, to_uint8


@dataclass(frozen=True)
class Triggers:
    """Masks and patterns, one a candidate, as the numbers that are optimised: each is (1 + tanh) / 2 of its own.

    Attributes:
        raw_mask: float ``[T, 1, H, W]``.
        raw_pattern: float ``[T, C, H, W]``.
    """

    raw_mask: Tensor
    raw_pattern: Tensor

    @classmethod
    def new(
        cls, count: int, shape: tuple[int, int, int], mask: float, device: torch.device, generator: torch.Generator
    ) -> Triggers:
        """The same start for all: masks of about ``mask`` (0-1) everywhere, patterns of about one half."""
        c, h, w = shape
        start = torch.atanh(torch.tensor(2 * mask - 1)) + 0.1 * torch.randn(1, 1, h, w, generator=generator)
        pattern = 0.1 * torch.randn(1, c, h, w, generator=generator)
        return cls(*(raw.repeat(count, 1, 1, 1).to(device).requires_grad_() for raw in (start, pattern)))

    @property
    def mask(self) -> Tensor:
        """float ``[T, 1, H, W]``, 0-1."""
        return (self.raw_mask.tanh() + 1) / 2

    @property
    def pattern(self) -> Tensor:
        """float ``[T, C, H, W]``, 0-1."""
        return (self.raw_pattern.tanh() + 1) / 2

    @property
    def parameters(self) -> list[Tensor]:
        """What is optimised."""
        return [self.raw_mask, self.raw_pattern]


def stamp(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Every trigger on every image.

    Args:
        images: float ``[B, C, H, W]``, 0-1.
        mask, pattern: ``[T, 1, H, W]`` and ``[T, C, H, W]``, 0-1.

    Returns:
        float ``[T * B, C, H, W]``, the first trigger's images first, channels last in memory.
    """
    stamped = blend(images, mask[:, None], pattern[:, None])
    return stamped.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def blend(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Equation 2: ``(1 - mask) * images + mask * pattern``, float in 0-1, of shapes that broadcast."""
    return images + mask * (pattern - images)


def stamp_uint8(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """One trigger on images as they are sent: uint8 ``[N, C, H, W]``, mask ``[1, H, W]``, pattern ``[C, H, W]``."""
    return to_uint8(stamp(to_float(images), mask[None], pattern[None]).contiguous())


def pictures(mask: Tensor, pattern: Tensor) -> Tensor:
    """The triggers as they lie on black: uint8 ``[T, C, H, W]``."""
    return to_uint8((mask * pattern).detach().float().cpu())


def batches(data: ImageDataset, size: int, device: torch.device, generator: torch.Generator) -> Iterator[Tensor]:
    """Float images ``[B, C, H, W]`` (0-1) on the device without end: the whole set in random order, again and again.

    Args:
        size: images a batch; all if there are fewer.
    """
    size = min(size, len(data))
    while True:
        order = torch.randperm(len(data), generator=generator)
        for index in order[: len(order) - len(order) % size].split(size):
            yield to_float(data.images[index].to(device))
