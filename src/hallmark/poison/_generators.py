"""Small convolutional networks that make triggers: of a size that trains in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hallmark.data.dataset import to_float, to_uint8
from hallmark.runtime import Runtime

_BATCH = 500


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm (the same in training and use), ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.ReLU(inplace=True))


class Painter(nn.Module):
    """Image in, image-like out, on blocks of 2x2 pixels folded into channels: every output pixel sees some 18x18.

    Args:
        inputs, outputs: channels.
        width: half of the channels within, a multiple of 4.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(4 * inputs, 2 * width),
            convolution(2 * width, 2 * width),
            convolution(2 * width, 2 * width),
            nn.Conv2d(2 * width, 4 * outputs, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``, unbounded."""
        height, width = x.shape[2:]
        return nn.functional.pixel_shuffle(self.layers(fold(x)), 2)[:, :, :height, :width]


class Reader(nn.Module):
    """Image in, ``outputs`` numbers out.

    Args:
        inputs: channels of the image.
        width: half of the channels of the first layer, a multiple of 4.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(4 * inputs, 2 * width),
            convolution(2 * width, 4 * width, 2),
            QuarterAverages(),
            nn.Linear(16 * width, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, inputs, H, W]`` to ``[B, outputs]``."""
        return self.layers(fold(x))


class QuarterAverages(nn.Module):
    """Means over an image's four quarters: ``[B, C, H, W]`` to ``[B, 4C]``; of an odd side the middle counts twice.

    What adaptive pooling to 2x2 gives, whose backward pass is not deterministic on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = ((side + 1) // 2 for side in x.shape[2:])
        halves = [x[:, :, :rows], x[:, :, -rows:]]
        quarters = [part.mean((2, 3)) for half in halves for part in (half[..., :columns], half[..., -columns:])]
        return torch.stack(quarters, 2).flatten(1)


def fold(x: Tensor) -> Tensor:
    """Blocks of 2x2 pixels as channels, half the resolution; an odd side is continued by a pixel first."""
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    return nn.functional.pixel_unshuffle(nn.functional.pad(x, odd, mode="replicate") if any(odd) else x, 2)


@torch.no_grad()
def paint(network: nn.Module, images: Tensor, runtime: Runtime) -> Tensor:
    """``network`` (float 0-1 to float 0-1) over uint8 ``[N, C, H, W]``, in batches, on the CPU again."""
    parts = [to_uint8(network(to_float(part.to(runtime.device)))).cpu() for part in images.split(_BATCH)]
    return torch.cat(parts) if parts else images.clone()
