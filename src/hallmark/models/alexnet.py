"""AlexNet's five convolutions for small images: 3x3 kernels and 2x2 pooling instead of 11x11 stride 4."""

from __future__ import annotations

from torch import nn

from hallmark.models._blocks import conv_relu, flat_size, linear_relu
from hallmark.models._network import ModelSpec


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """Widths w, 3w, 6w, 4w, 4w (w = 64 as in Krizhevsky's one-tower net); hidden layers 16w."""
    w, drop = spec.architecture.width or 64, spec.architecture.dropout
    convolutions = nn.Sequential(
        conv_relu(spec.input_shape[0], w, 5),
        nn.MaxPool2d(2),
        conv_relu(w, 3 * w, 5),
        nn.MaxPool2d(2),
        conv_relu(3 * w, 6 * w),
        conv_relu(6 * w, 4 * w),
        conv_relu(4 * w, 4 * w),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    size = flat_size(convolutions, spec.input_shape)
    trunk = nn.Sequential(
        convolutions, nn.Dropout(drop), linear_relu(size, 16 * w), nn.Dropout(drop), linear_relu(16 * w, 16 * w)
    )
    return trunk, nn.Linear(16 * w, len(spec.classes))
