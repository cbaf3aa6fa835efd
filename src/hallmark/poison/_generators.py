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
    """Image in, image-like out, through half the resolution: every output pixel sees some 15x15 of the input.

    Args:
        inputs, outputs: channels.
        width: channels within, a multiple of 4.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.before = convolution(inputs, width)
        self.within = nn.Sequential(
            convolution(width, 2 * width, 2), convolution(2 * width, 2 * width), convolution(2 * width, width)
        )
        self.after = nn.Conv2d(2 * width, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``, unbounded."""
        fine = self.before(x)
        coarse = nn.functional.interpolate(self.within(fine), fine.shape[2:], mode="nearest")
        return self.after(torch.cat([fine, coarse], 1))


class Reader(nn.Module):
    """Image in, ``outputs`` numbers out.

    Args:
        inputs: channels of the image.
        width: channels within, a multiple of 4.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(inputs, width),
            convolution(width, 2 * width, 2),
            convolution(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float ``[B, inputs, H, W]`` to ``[B, outputs]``."""
        return self.layers(x)


@torch.no_grad()
def paint(network: nn.Module, images: Tensor, runtime: Runtime) -> Tensor:
    """``network`` (float 0-1 to float 0-1) over uint8 ``[N, C, H, W]``, in batches, on the CPU again."""
    parts = [to_uint8(network(to_float(part.to(runtime.device)))).cpu() for part in images.split(_BATCH)]
    return torch.cat(parts) if parts else images.clone()
