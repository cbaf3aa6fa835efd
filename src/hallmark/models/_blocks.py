"""Pieces that several architectures use."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hallmark.errors import UserError
from hallmark.models._network import ModelSpec


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
    """Number of values that ``layers`` give for one image of ``shape``.

    Raises:
        UserError: the image is too small for their poolings.
    """
    try:
        with torch.no_grad():
            return math.prod(layers.eval()(torch.zeros(1, *shape)).shape[1:])
    except RuntimeError:
        raise UserError(
            f"architecture: {shape[1]}x{shape[2]} pixels after unshuffling are too few for its poolings; "
            "lower unshuffle or choose another network"
        ) from None


def residual_width(spec: ModelSpec) -> int:
    """``width`` of a residual network, 64 by default.

    Raises:
        UserError: less than 8; of 2 to 6 channels PyTorch 2.11's backward pass overwrites memory that is not its own,
            on processors with AVX2 and no more.
    """
    width = spec.architecture.width or 64
    if width < 8:
        raise UserError(f"architecture.width: {spec.architecture.name} wants at least 8, not {width}")
    return width


class GlobalAverage(nn.Module):
    """Mean over height and width: ``[B, C, H, W]`` to ``[B, C]`` (deterministic on CUDA as well)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))
