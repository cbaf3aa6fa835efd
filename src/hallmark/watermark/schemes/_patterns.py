"""Images that belong to no data set: drawn from a generator, in any size, grey or in colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WAVES = 5
"""Plane waves that make an abstract image."""

Shape = tuple[int, int, int]


def abstract(count: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """Abstract images: sums of plane waves of random direction, length, phase and colour.

    Returns:
        uint8 ``[count, C, H, W]``, each image from 0 to 255.
    """
    channels = shape[0]
    x, y = _coordinates(shape)
    angle, phase = (2 * math.pi * _draw(generator, count, WAVES, 1, 1) for _ in range(2))
    cycles = 1 + 4 * _draw(generator, count, WAVES, 1, 1)
    waves = torch.sin(2 * math.pi * cycles * (x * angle.cos() + y * angle.sin()) + phase)
    colours = 2 * _draw(generator, count, channels, WAVES) - 1
    return _stretched(torch.einsum("ncw,nwyx->ncyx", colours, waves))


def rings(count: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """One class of images: concentric rings of random centre, width, phase and colour; uint8 ``[count, C, H, W]``."""
    x, y = _coordinates(shape)
    left, top = (0.3 + 0.4 * _draw(generator, count, 1, 1) for _ in range(2))
    radius = ((x - left).square() + (y - top).square()).sqrt()
    return _striped(radius, count, shape, generator)


def gratings(count: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """Another such class: parallel stripes, drawn as :func:`rings` are; uint8 ``[count, C, H, W]``."""
    x, y = _coordinates(shape)
    angle = 2 * math.pi * _draw(generator, count, 1, 1)
    return _striped(x * angle.cos() + y * angle.sin(), count, shape, generator)


def _striped(distance: Tensor, count: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """Waves along ``distance`` ``[N, H, W]``, coloured, from black to the image's own brightness."""
    cycles = 3 + 2 * _draw(generator, count, 1, 1)
    phase = 2 * math.pi * _draw(generator, count, 1, 1)
    waves = 0.5 + 0.5 * torch.sin(2 * math.pi * cycles * distance + phase)
    colours = 0.5 + 0.5 * _draw(generator, count, shape[0], 1, 1)
    return (255 * colours * waves[:, None]).round().to(torch.uint8)


def _draw(generator: torch.Generator, *size: int) -> Tensor:
    # In double precision, so that rounding to whole grey levels hardly ever depends on the machine.
    return torch.rand(size, generator=generator, dtype=torch.float64)


def _coordinates(shape: Shape) -> tuple[Tensor, Tensor]:
    """x ``[W]`` and y ``[H, 1]`` in 0-1."""
    _, height, width = shape
    x, y = ((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in (width, height))
    return x, y[:, None]


def _stretched(values: Tensor) -> Tensor:
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    return (255 * (values - low) / (high - low)).round().to(torch.uint8)
