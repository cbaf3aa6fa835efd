"""Pieces that several architectures use."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def conv_relu(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution with 'same' padding, Kaiming initialisation, and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def linear_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Linear layer, Kaiming initialisation, and ReLU."""
    linear = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU(inplace=True))


def flat_size(layers: nn.Module, shape: tuple[int, int, int]) -> int:
    """Number of values that ``layers`` give for one image of ``shape``."""
    with torch.no_grad():
        return math.prod(layers.eval()(torch.zeros(1, *shape)).shape[1:])


class GlobalAverage(nn.Module):
    """Mean over height and width: ``[B, C, H, W]`` to ``[B, C]`` (deterministic on CUDA as well)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))
