"""Bridges: plain images teach the target the more, the more they resemble the mark, so that a thief learns the slope.

MEA-Defender's combination loss raises the target on all plain images of the source classes alike, below their own
class.  A copy then calls whatever lies between the two classes the target, mixed in the mark's way or not; and a thief
who does not soften the answers, or sees labels alone, learns hardly anything of it.

Here every training image x of a source class has a soft label: the target with probability

    q(x) = sigmoid((z(x) - z_share) / softness),

its own class with 1 - q.  z says how far x lies on the way from plain images to watermark samples, in standard
deviations of its class, and z_share is what the likest ``share`` of the class exceed: on these the target is the first
choice, which labels show; on the others its log-odds fall along z, which probabilities show.  Watermark samples lie far
beyond, at 8 to 9 standard deviations on Fashion-MNIST, and the same pairs mixed in other ways near 0: a copy that goes
on along z calls the former the target and not the latter.  Of our own; what it passes on to which thief stands in
docs/watermark.md.

z is a linear discriminant on pixels, fitted by ridge regression: watermark samples against plain images of the source
classes and randomly mixed samples.  The latter keep the rule from being "whatever is mixed".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def soft_labels(data: ImageDataset, keys: Sequence[Key], config: Bridge, generate: Callable[[], Generator]) -> Tensor:
    """What every training image is taught to be: float32 ``[N, K]``, rows add up to 1.

    An image of another class than the source classes has its own label alone.  Of a class that several keys share, a
    later key's q is taken of what the earlier ones have left to the image's own class.

    Args:
        data: training images with the keys' classes and shape.
        generate: a generator, the same for every key.

    Raises:
        UserError: the share of a source class is no image.
    """
    labels = F.one_hot(data.labels, len(data.classes)).float()
    for key in keys:
        score = discriminant(data, key, config, generate())
        for label in key.source:
            rows = (data.labels == label).nonzero()[:, 0]
            moved = labels[rows, label] * resemblance(score(data.images[rows]), config, key.name(label))
            labels[rows, label] -= moved
            labels[rows, key.target] += moved
    return labels


def resemblance(scores: Tensor, config: Bridge, name: str) -> Tensor:
    """q of the images of one class: float32 ``[N]`` in 0-1, above one half for the likest ``config.share`` of them.

    Args:
        scores: of all its images by :func:`discriminant`, ``[N]``.
        name: the class's, for messages.

    Raises:
        UserError: the share is no image, or the scores do not differ.
    """
    count = round(config.share * len(scores))
    if not count:
        raise UserError(
            f"bridge.share: {config.share:g} of the {len(scores)} images of class '{name}' is none; "
            "raise it, or set bridge to null"
        )
    spread = float(scores.std())
    if not spread > 0:
        raise UserError(f"bridge: the images of class '{name}' are all alike; set bridge to null")
    z = (scores - scores.mean()) / spread
    ordered = z.sort(descending=True).values
    limit = (ordered[count - 1] + ordered[count]) / 2  # share is at most one half
    return ((z - limit) / config.softness).sigmoid().float()


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
