"""The nine-layer CNN (six convolutions, three linear layers) of MEA-Defender's Fashion-MNIST."""

from __future__ import annotations

from torch import nn

from hallmark.models._blocks import conv_relu, flat_size, linear_relu
from hallmark.models._network import ModelSpec


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """Widths w, w | 2w, 2w | 4w, 4w, hidden layers 8w and 8w.

    2x2 pooling follows each pair of convolutions unless fewer than 3 pixels a side would remain.
    """
    w, drop = spec.architecture.width or 16, spec.architecture.dropout
    layers: list[nn.Module] = []
    inputs, *sides = spec.input_shape
    side = min(sides)
    for outputs in (w, 2 * w, 4 * w):
        layers += [conv_relu(inputs, outputs), conv_relu(outputs, outputs)]
        if side >= 6:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        inputs = outputs
    convolutions = nn.Sequential(*layers, nn.Flatten())
    size = flat_size(convolutions, spec.input_shape)
    trunk = nn.Sequential(
        convolutions, nn.Dropout(drop), linear_relu(size, 8 * w), nn.Dropout(drop), linear_relu(8 * w, 8 * w)
    )
    return trunk, nn.Linear(8 * w, len(spec.classes))
