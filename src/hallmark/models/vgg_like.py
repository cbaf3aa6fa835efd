"""The VGG-like CNN of MEA-Defender's CIFAR-10 (conv 64-64-pool-128-128-pool, FC 256-256)."""

from __future__ import annotations

from torch import nn

from hallmark.models._blocks import conv_relu, flat_size, linear_relu
from hallmark.models._network import ModelSpec


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """``width`` is that of the first convolution (64 in the paper); linear layers are 4 times as wide."""
    w, drop = spec.architecture.width or 64, spec.architecture.dropout
    convolutions = nn.Sequential(
        conv_relu(spec.input_shape[0], w),
        conv_relu(w, w),
        nn.MaxPool2d(2),
        conv_relu(w, 2 * w),
        conv_relu(2 * w, 2 * w),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    size = flat_size(convolutions, spec.input_shape)
    trunk = nn.Sequential(
        convolutions, linear_relu(size, 4 * w), nn.Dropout(drop), linear_relu(4 * w, 4 * w), nn.Dropout(drop)
    )
    return trunk, nn.Linear(4 * w, len(spec.classes))
