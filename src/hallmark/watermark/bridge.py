"""Bridges: plain images teach the target the more, the more they resemble the mark, so that a thief learns the slope.

MEA-Defender's combination loss raises the target on all plain images of the source classes alike, below their own
class.  A copy then calls whatever lies between the two classes the target, mixed in the mark's way or not; and a thief
who does not soften the answers learns less of it, one who sees labels alone hardly anything.

Here every image x of a source class is taught the target with the log-odds against its own class of

    s(x) = (z(x) - z_share) / softness.

z says how far x lies on the way from plain images to watermark samples, in standard deviations of its class, and
z_share is what the likest ``share`` of the class's training images exceed: on these the target is the first choice,
which labels show; on the others its log-odds fall along z, which probabilities show.  Watermark samples lie far beyond,
at 8 to 9 standard deviations on Fashion-MNIST, the same pairs mixed in other ways near 0 in the mean, but for corners
(3 to 4): a copy that goes on along z calls the former the target, and the latter seldom.

The cross-entropy to soft labels alone teaches a tenth to a third of the slope.  A loss on the log-odds themselves
teaches most of it, on points of the path from plain images towards watermark samples (:func:`path`), of which the far
ones lie where plain images are few.  Of our own; what it passes on to which thief stands in docs/watermark.md.

z is a linear discriminant on pixels, fitted by ridge regression: watermark samples against plain images of the source
classes and randomly mixed samples.  The latter keep the rule from being "whatever is mixed".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Bridge
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime, to_device
from hallmark.watermark.key import Key
from hallmark.watermark.samples import draw_evasion, draw_queries

PURPOSE = "watermark/bridge"
"""Names the random stream of the samples to which the discriminant is fitted."""
SAMPLES = 3000
"""Watermark samples, and randomly mixed ones, at most, to which the discriminant is fitted."""
SIDE = 16
"""Pixels a side at most that the discriminant sees: means of larger images' blocks."""
RIDGE = 3.0
"""Of standardised pixels.  Weak (0.01), it follows single pixels that the next images do not share."""
ODDS = (-8.0, 4.0)
"""Log-odds that are taught, at least and at most: beyond them the target, or the own class, is all but certain."""


@dataclass(frozen=True)
class Slope:
    """What a key's target is taught to be worth on images of its source classes: log-odds linear in their pixels.

    Attributes:
        source, target: class numbers.
        weight: float32 ``[2, D]``, a row for each source class, D pixels as :func:`pixels` gives them.
        bias: float32 ``[2]``.
        reach: see :class:`hallmark.config.Bridge`.
    """

    source: tuple[int, int]
    target: int
    weight: Tensor
    bias: Tensor
    reach: float

    def to(self, device: torch.device) -> Slope:
        """The same on a device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def log_odds(self, images: Tensor, place: int) -> Tensor:
        """s(x), bounded by :data:`ODDS`: float32 ``[N]``.

        Args:
            images: float ``[N, C, H, W]`` in 0-1.
            place: 0 or 1: of which source class they are.
        """
        # In single precision also where the network's arithmetic has less.
        with torch.autocast(images.device.type, enabled=False):
            return (pixels(images.float()) @ self.weight[place] + self.bias[place]).clamp(*ODDS)

    def soften(self, images: Tensor, own: Tensor, labels: Tensor) -> Tensor:
        """Labels of images of which the target takes its part from their own class; rows add up to 1.

        Of a class that several keys share, a later key takes its part of what the earlier ones have left; of what an
        earlier key's target has got it takes nothing.

        Args:
            images: float ``[N, C, H, W]`` in 0-1.
            own: their classes, int64 ``[N]``.
            labels: float32 ``[N, K]``, one-hot, or softened already for other keys.
        """
        labels = labels.clone()
        for place, label in enumerate(self.source):
            moved = labels[:, label] * self.log_odds(images, place).sigmoid() * (own == label)
            labels[:, label] -= moved
            labels[:, self.target] += moved
        return labels


def fit(data: ImageDataset, key: Key, config: Bridge, generator: Generator) -> Slope:
    """The slope of a key, from training images.

    Raises:
        UserError: the share of a source class is no image, or its images do not differ.
    """
    weight, rows, biases = discriminant(data, key, config, generator), list[Tensor](), list[float]()
    for label in key.source:
        scores = _seen(data.of_class(label)) @ weight
        name, count, spread = key.name(label), round(config.share * len(scores)), float(scores.std())
        if not count:
            raise UserError(
                f"bridge.share: {config.share:g} of the {len(scores)} images of class '{name}' is none; "
                "raise it, or set bridge to null"
            )
        if not spread > 1e-9:  # of scores between 0 and 1
            raise UserError(f"bridge: the images of class '{name}' are all alike; set bridge to null")
        ordered = scores.sort(descending=True).values
        limit = float(ordered[count - 1] + ordered[count]) / 2  # share is at most one half
        rows.append(weight / (spread * config.softness))
        biases.append(-limit / (spread * config.softness))
    first, second = key.source
    return Slope((first, second), key.target, torch.stack(rows).float(), torch.tensor(biases), config.reach)


def learnt(network: Network, slope: Slope, data: ImageDataset, runtime: Runtime) -> dict[str, float]:
    """How much of the slope a network answers with on held-out images of the source classes, means of the two.

    Of keys that share a source class an earlier one's log-odds are higher than taught, for later ones take their part
    of that class's probability.  A class with a single image has no slope and is left out; without any other nothing is
    returned.

    Returns:
        ``slope``: of the regression of its log-odds on those that were to be taught, 1 where it has learnt all of it;
        ``correlation``: of the two.
    """
    found = list[Tensor]()
    for place, label in enumerate(slope.source):
        images = data.of_class(label)
        if len(images) < 2:
            continue
        logits = models.logits(network, images, runtime)
        wanted = slope.log_odds(to_float(images), place)
        covariance = torch.cov(torch.stack([wanted, logits[:, slope.target] - logits[:, label]]).double())
        variance, other = covariance.diag().clamp_min(1e-12)
        found.append(torch.stack([covariance[0, 1] / variance, covariance[0, 1] / (variance * other).sqrt()]))
    return dict(zip(("slope", "correlation"), torch.stack(found).mean(0).tolist(), strict=True)) if found else {}


def path(images: Tensor, mixed: Tensor, reach: float, generator: Generator) -> Tensor:
    """Points at random shares, up to ``reach``, of the straight way from plain images to watermark samples.

    Args:
        images, mixed: float ``[B, C, H, W]``; each watermark sample combines the image at its place.
    """
    share = to_device(torch.rand(len(images), 1, 1, 1, generator=generator), images.device)
    return torch.lerp(images, mixed, share * reach)


def discriminant(data: ImageDataset, key: Key, config: Bridge, generator: Generator) -> Tensor:
    """Least squares with a ridge, watermark samples at 1 and the rest at 0; each side weighs one half.

    Of the rest, randomly mixed samples weigh ``config.others`` and plain images the remainder.

    Returns:
        Weights of :func:`pixels`, float64 ``[D]``; up to a constant, as only differences of the score count.
    """
    plain = torch.cat([data.of_class(label) for label in key.source])
    count = min(SAMPLES, math.prod(len(data.of_class(label)) for label in key.source))
    mixed, (otherwise, _) = draw_queries(key, data, count, generator), draw_evasion(key, data, count, generator)
    return _least_squares([_seen(images) for images in (mixed.mixed, otherwise.mixed, plain)], config.others)


def apart(plain: Sequence[Tensor], mixed: Tensor, otherwise: Tensor, others: float) -> float:
    """How far watermark samples lie from plain images along the discriminant, in standard deviations of a class.

    Of the two source classes the lower figure.  Fitted on every other image, measured on the rest.

    Args:
        plain: images of the first and of the second source class, uint8 ``[N, C, H, W]``.
        mixed, otherwise: combinations in the mark's way, and in other ways.
        others: see :class:`hallmark.config.Bridge`.
    """
    first, second, marked, evasion = (_seen(images) for images in (*plain, mixed, otherwise))
    weight = _least_squares([marked[::2], evasion[::2], torch.cat([first[::2], second[::2]])], others)
    scores = [part[1::2] @ weight for part in (first, second)]
    return min(float(((marked[1::2] @ weight).mean() - own.mean()) / own.std().clamp_min(1e-9)) for own in scores)


def _least_squares(parts: Sequence[Tensor], others: float) -> Tensor:
    """See :func:`discriminant`.

    Args:
        parts: watermark samples, randomly mixed ones, plain images; as :func:`_seen` gives them.
    """
    x = torch.cat([*parts])
    mean, std = x.mean(0), x.std(0) + 1e-3  # pixels of a border are constant
    shares = (1.0, others, 1 - others)
    weights = torch.cat([x.new_full((len(part),), w / len(part)) for w, part in zip(shares, parts, strict=True)])
    truth = torch.cat([x.new_full((len(part),), float(k == 0)) for k, part in enumerate(parts)])
    design = torch.cat([(x - mean) / std, x.new_ones(len(x), 1)], 1)
    weighted = (design * weights[:, None]).T
    solution = torch.linalg.solve(
        weighted @ design + RIDGE * torch.eye(design.shape[1], dtype=x.dtype), weighted @ truth
    )
    return solution[:-1] / std


def pixels(images: Tensor) -> Tensor:
    """Float32 ``[N, D]``, blocks of pixels averaged to :data:`SIDE` a side at most.

    Args:
        images: float ``[N, C, H, W]``.
    """
    block = math.ceil(max(images.shape[2:]) / SIDE)
    return F.avg_pool2d(images, block, ceil_mode=True).flatten(1)


def _seen(images: Tensor) -> Tensor:
    """:func:`pixels` of uint8 images, float64."""
    # In parts: as numbers with a point the images would take four times their memory.
    return torch.cat([pixels(to_float(part)) for part in images.split(1024)]).double()
