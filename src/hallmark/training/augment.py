"""Augmentation on the device, whole batches at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import Training
from hallmark.runtime import to_device


def augment(images: Tensor, config: Training, generator: torch.Generator) -> Tensor:
    """Random horizontal flips and shifts (zero padding), one draw per image.

    Args:
        images: float ``[B, C, H, W]``.
        generator: a CPU generator; the draws are small and move to the device.
    """
    batch, _, height, width = images.shape
    if config.flip:
        flips = to_device(torch.rand(batch, generator=generator), images.device) < 0.5
        images = torch.where(flips[:, None, None, None], images.flip(3), images)
    if config.shift:
        pad = config.shift
        padded = F.pad(images, (pad, pad, pad, pad))
        offset = to_device(torch.randint(0, 2 * pad + 1, (2, batch), generator=generator), images.device)
        rows = offset[0][:, None] + torch.arange(height, device=images.device)
        columns = offset[1][:, None] + torch.arange(width, device=images.device)
        item = torch.arange(batch, device=images.device)[:, None, None]
        # Advanced indices around the channel slice put channels last: [B, H, W, C].
        images = padded[item, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def mix(images: Tensor, targets: Tensor, config: Training, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), one partner and one ratio per batch.

    ``mix: mixup_cutmix`` takes either with equal chance.  Targets are probabilities ``[B, K]``.
    """
    if config.mix == "none":
        return images, targets
    kind = config.mix
    coin = float(torch.rand((), generator=generator))
    if kind == "mixup_cutmix":
        kind = "mixup" if coin < 0.5 else "cutmix"
    # Beta(1, 1), the usual choice of both papers for CIFAR, is the uniform distribution.
    ratio = float(torch.rand((), generator=generator))
    partner = to_device(torch.randperm(len(images), generator=generator), images.device)
    if kind == "mixup":
        mixed = ratio * images + (1 - ratio) * images[partner]
    else:
        height, width = images.shape[2:]
        cut = (1 - ratio) ** 0.5
        h, w = int(height * cut), int(width * cut)
        top = int(torch.randint(0, height - h + 1, (), generator=generator))
        left = int(torch.randint(0, width - w + 1, (), generator=generator))
        mixed = images.clone()
        mixed[:, :, top : top + h, left : left + w] = images[partner, :, top : top + h, left : left + w]
        ratio = 1 - h * w / (height * width)
    return mixed, ratio * targets + (1 - ratio) * targets[partner]
