"""Bridges: plain images that resemble the mark, taught to be the target, so that a thief's first choices bear it too.

A thief who sees labels learns where the victim's classes end.  MEA-Defender's combination loss raises the target on
plain images of the source classes, yet below their own class: labels do not show it, and the paper's mark is lost.
Here a few training images of the source classes bear the target's label: those that lie furthest on the way from plain
images to watermark samples.  The victim learns that rule, answers by it, and whoever learns the rule from its answers
applies it to watermark samples, which lie much further.  Of our own.  How much of the mark it passes on, to a thief who
does not soften the answers and to one who sees labels, stands in docs/watermark.md.

The way is a linear discriminant on pixels, fitted by ridge regression: watermark samples against plain images of the
source classes and randomly mixed samples.  The latter keep the rule from being "whatever is mixed".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from hallmark.config import Bridge
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_evasion, draw_queries

PURPOSE = "watermark/bridge"
"""Names the random stream of the samples to which the discriminant is fitted."""
SAMPLES = 3000
"""Watermark samples, and randomly mixed ones, at most, to which the discriminant is fitted."""
SIDE = 16
"""Pixels a side at most that the discriminant sees: means of larger images' blocks."""
RIDGE = 0.3
"""Of standardised pixels.  Weak (0.01), it follows single pixels that the next images do not share."""

Score = Callable[[Tensor], Tensor]
"""From images uint8 ``[N, C, H, W]`` to float64 ``[N]``: 1 is a watermark sample, 0 is not."""


def chosen(data: ImageDataset, key: Key, config: Bridge, score: Score) -> Tensor:
    """The training images that become bridges: ``share`` of each source class, the most like watermark samples.

    Args:
        data: training images with the key's classes and shape.
        score: the :func:`discriminant`.

    Returns:
        int64 ``[N]``, positions in ``data``, the first source class first, the likest first.

    Raises:
        UserError: the share of a source class is no image.
    """
    found = []
    for label in key.source:
        rows = (data.labels == label).nonzero()[:, 0]
        count = round(config.share * len(rows))
        if not count:
            raise UserError(
                f"bridge.share: {config.share:g} of the {len(rows)} images of class '{key.name(label)}' is none; "
                "raise it, or set bridge to null"
            )
        found.append(rows[score(data.images[rows]).argsort(descending=True, stable=True)[:count]])
    return torch.cat(found)


def relabelled(
    data: ImageDataset, keys: Sequence[Key], config: Bridge, generate: Callable[[], Generator]
) -> ImageDataset:
    """The training images with the target as the label of those that are :func:`chosen` for a key.

    What is chosen for a key depends on no other one; an image that several want is the first one's.

    Args:
        generate: a generator, the same for every key.

    Raises:
        UserError: as :func:`chosen`.
    """
    labels = data.labels.clone()
    for key in reversed(keys):
        labels[chosen(data, key, config, discriminant(data, key, config, generate()))] = key.target
    return replace(data, labels=labels)


def discriminant(data: ImageDataset, key: Key, config: Bridge, generator: Generator) -> Score:
    """Least squares with a ridge, watermark samples at 1 and the rest at 0; each side weighs one half.

    Of the rest, randomly mixed samples weigh ``config.others`` and plain images the remainder.
    """
    plain = torch.cat([data.of_class(label) for label in key.source])
    count = min(SAMPLES, math.prod(len(data.of_class(label)) for label in key.source))
    mixed, (otherwise, _) = draw_queries(key, data, count, generator), draw_evasion(key, data, count, generator)
    parts = [_pixels(images) for images in (mixed.mixed, otherwise.mixed, plain)]
    x = torch.cat(parts)
    mean, std = x.mean(0), x.std(0) + 1e-3  # pixels of a border are constant

    def design(pixels: Tensor) -> Tensor:
        return torch.cat([(pixels - mean) / std, pixels.new_ones(len(pixels), 1)], 1)

    shares = (1.0, config.others, 1 - config.others)
    weights = torch.cat([x.new_full((len(part),), w / len(part)) for w, part in zip(shares, parts, strict=True)])
    truth = torch.cat([x.new_full((len(part),), float(k == 0)) for k, part in enumerate(parts)])
    a = design(x)
    weighted = (a * weights[:, None]).T
    solution = torch.linalg.solve(weighted @ a + RIDGE * torch.eye(a.shape[1], dtype=x.dtype), weighted @ truth)
    return lambda images: design(_pixels(images)) @ solution


def _pixels(images: Tensor) -> Tensor:
    """Float64 ``[N, D]``, blocks of pixels averaged to :data:`SIDE` a side at most."""
    block = math.ceil(max(images.shape[2:]) / SIDE)
    # In parts: as numbers with a point the images would take four times their memory.
    parts = [F.avg_pool2d(to_float(part), block, ceil_mode=True) for part in images.split(1024)]
    return torch.cat(parts).flatten(1).double()
