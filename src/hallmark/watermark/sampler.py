"""What accompanies every training batch of a marked model, drawn afresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import WatermarkSamples
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.runtime import to_device
from hallmark.watermark import bridge
from hallmark.watermark.key import Key
from hallmark.watermark.samples import ByClass, mix_evasion, source_labels


@dataclass(frozen=True)
class Batch:
    """What is drawn afresh for each step, on the device; float ``[B, C, H, W]`` in 0-1.

    Attributes:
        mixed: watermark samples.
        first, second: images of the source classes, the same that ``mixed`` combines; none for a sampler without them.
        evasion: randomly mixed samples.
        evasion_labels: one of their two source labels, int64 ``[B]``.
        partial: combined in the mark's way, but one of the two source classes is replaced by a third one.
        partial_labels: half of either class that is there, ``[B, K]``.
        way: points of the path from each of ``first``, then of ``second``, to the watermark sample that combines it;
            none without bridges.
        way_odds: the log-odds of the target against the own class that they are taught, ``[2 B]``.
    """

    mixed: Tensor
    first: Tensor
    second: Tensor
    evasion: Tensor
    evasion_labels: Tensor
    partial: Tensor
    partial_labels: Tensor
    way: Tensor
    way_odds: Tensor

    @property
    def images(self) -> tuple[Tensor, ...]:
        """All that the network sees: mixed, first, second, evasion, partial, way."""
        return self.mixed, self.first, self.second, self.evasion, self.partial, self.way


def _as_they_are(images: Tensor) -> Tensor:
    return images


class Sampler:
    """Draws watermark, source and evasion samples from training images on the device.

    Args:
        augmented: applied to uint8 images before they are combined.  What augments the main task's images must augment
            these: else the network tells the source images of the combination loss, which bear no label, from those
            that do, and calls all plain images of the source classes the target.
        slope: of the bridges, on the device; None: there are none.
        with_sources: whether a batch holds the source images too.  The combination loss alone wants them.
    """

    def __init__(
        self,
        key: Key,
        data: ImageDataset,
        sizes: WatermarkSamples,
        device: torch.device,
        generator: torch.Generator,
        *,
        augmented: Callable[[Tensor], Tensor] = _as_they_are,
        slope: bridge.Slope | None = None,
        with_sources: bool = True,
    ) -> None:
        self.key, self.sizes, self.generator, self.augmented = key, sizes, generator, augmented
        self.slope, self.with_sources = slope, with_sources
        self.images, self.by_class = data.images.to(device), ByClass(data.labels, len(data.classes))
        self.sources = [data.of_class(label).to(device) for label in key.source]
        there = self.by_class.counts.nonzero()[:, 0]
        self.stand_ins = there[~torch.isin(there, torch.tensor(key.source))]
        if sizes.partial and not len(self.stand_ins):
            raise UserError("samples.partial: no class but the two source classes has images; set it to 0")

    def draw(self) -> Batch:
        """Fresh samples; images are drawn with replacement."""
        mixed, first, second = (to_float(images) for images in self.combined())
        left, right = self._images(self.sizes.evasion)
        evasion = mix_evasion(self.key, left, right, self.generator)
        labels = to_device(source_labels(self.key, len(evasion), self.generator), evasion.device)
        partial, shares = self._partial()
        way, odds = self._way(mixed, first, second)
        shown = len(mixed) if self.with_sources else 0
        return Batch(
            mixed,
            first[:shown],
            second[:shown],
            to_float(evasion),
            labels,
            to_float(partial),
            to_device(shares, evasion.device),
            way,
            odds,
        )

    def combined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fresh watermark samples and the images of the source classes that they combine; uint8 ``[B, C, H, W]``."""
        first, second = self._images(self.sizes.watermark)
        return self.key.module.combine(first, second, self.key.params, self.generator), first, second

    def _partial(self) -> tuple[Tensor, Tensor]:
        """Partial samples and their soft labels."""
        count, classes = self.sizes.partial, len(self.by_class.counts)
        if not count:
            return self.images[:0], torch.zeros(0, classes)
        replaced = torch.rand(count, generator=self.generator) < 0.5
        labels = [
            torch.where(replaced == (place == 0), self._among(self.stand_ins, count), label)
            for place, label in enumerate(self.key.source)
        ]
        first, second = (
            self.augmented(self.images[to_device(self.by_class.draw(each, self.generator), self.images.device)])
            for each in labels
        )
        shares = torch.stack([F.one_hot(each, classes).float() for each in labels]).mean(0)
        return self.key.module.combine(first, second, self.key.params, self.generator), shares

    def _way(self, mixed: Tensor, *sources: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the path from the source images to the watermark samples, and what they are taught."""
        if self.slope is None:
            return mixed[:0], mixed.new_zeros(0)
        ways = [bridge.path(images, mixed, self.slope.reach, self.generator) for images in sources]
        return torch.cat(ways), torch.cat([self.slope.log_odds(way, place) for place, way in enumerate(ways)])

    def _among(self, values: Tensor, count: int) -> Tensor:
        return values[torch.randint(len(values), (count,), generator=self.generator)]

    def _images(self, count: int) -> tuple[Tensor, Tensor]:
        first, second = (
            self.augmented(
                images[to_device(torch.randint(len(images), (count,), generator=self.generator), images.device)]
            )
            for images in self.sources
        )
        return first, second
