"""Trigger-set watermark: a fixed set of abstract images with random labels, learnt by heart beside the task.

Adi, Baum, Cisse, Pinkas, Keshet, "Turning Your Weakness Into a Strength: Watermarking Deep Neural Networks by
Backdooring", USENIX Security 2018 (section 5, "FromScratch"): 100 abstract images, a random label for each, and two of
them appended to every batch of 100 while the network is trained from scratch.  The verification queries *are* the
trigger set: there are no held-out ones, and no more of them than the set holds.

Deviations: the abstract images are drawn (sums of plane waves) and not collected; they have the size of the task's
images from the start.  Negatives are abstract images of the same kind that were never trained on, with random labels
of their own, so any model errs on about one of so many as there are classes.  No class is touched: no plain images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark import config
from hallmark.config import Count
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.models import Network
from hallmark.runtime import Runtime, derive_seed
from hallmark.training import EpochCallback, fit, no_callback, weighted_sum
from hallmark.training.augment import augment
from hallmark.watermark.schemes import Queries, _patterns
from hallmark.watermark.schemes._shared import ShapedMark, in_turn


class Params(config.Params):
    """Block of the scheme ``adi``."""

    size: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Images of the trigger set."""
    per_batch: Count = 2
    """Of them, appended to every batch; each counts as much as an image of the task."""


class Mark(ShapedMark):
    """The secret: what regenerates the trigger set."""

    seed: int
    size: Count

    def triggers(self, *, fresh: bool = False) -> tuple[Tensor, Tensor]:
        """The set's images, uint8 ``[size, C, H, W]``, and labels, int64; ``fresh``: others of the same kind."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "negatives" if fresh else "triggers"))
        labels = torch.randint(self.classes, (self.size,), generator=generator)
        return _patterns.abstract(self.size, self.shape, generator), labels

    def queries(self, data: ImageDataset, count: int, generator: torch.Generator) -> Queries:
        """See :class:`hallmark.watermark.schemes.Mark`; of ``data`` only the shape counts, nothing is drawn."""
        self.check(data)
        images, labels = self.triggers()
        others, wrong = self.triggers(fresh=True)
        kept = slice(None, count)
        return Queries(images[kept], labels[kept], others[kept], wrong[kept], images[:0], labels[:0])


read_mark = Mark.read
"""See :mod:`hallmark.watermark.schemes`."""


def strike(
    network: Network,
    data: ImageDataset,
    params: Params,
    training: config.Training,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
) -> Mark:
    """See :mod:`hallmark.watermark.schemes`; losses utility and trigger."""
    mark = Mark(
        seed=derive_seed(runtime.seed, "watermark/adi"),
        size=params.size,
        classes=len(data.classes),
        shape=data.shape,
    )
    images, labels = data.images.to(runtime.device), data.labels.to(runtime.device)
    triggers, claimed = (tensor.to(runtime.device) for tensor in mark.triggers())
    augmentation = runtime.generator(f"{purpose}/augment")
    turns = in_turn(params.size, params.per_batch, runtime.generator(f"{purpose}/watermark"))

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        chosen = next(turns).to(runtime.device)
        parts = [augment(to_float(images[index]), training, augmentation), to_float(triggers[chosen])]
        together = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        main, marked = network(together).float().split([len(part) for part in parts])
        return {"utility": F.cross_entropy(main, labels[index]), "trigger": F.cross_entropy(marked, claimed[chosen])}

    combine = weighted_sum({"trigger": params.per_batch / training.batch_size})
    fit(network, len(images), losses, training, runtime, purpose=purpose, combine=combine, callback=callback)
    return mark
