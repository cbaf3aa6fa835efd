"""VGGFace (Parkhi, Vedaldi and Zisserman, "Deep Face Recognition", BMVC 2015, network A): VGG-16 for faces.

Thirteen 3x3 convolutions in five blocks and two hidden layers of 4,096, for crops of 224x224.  Deviations: 2x2 pooling
is left out where fewer than 3 pixels a side would remain (the paper has all five, and 7x7 left); it is initialised by
Kaiming's rule, which trains it from scratch without batch normalisation (the paper: Gaussian, of deviation 0.01); no
triplet loss follows the classifier.  The paper's dropout of 0.5 after each hidden layer is ``architecture.dropout``.
"""

from __future__ import annotations

from torch import nn

from hallmark.models._blocks import conv_relu, flat_size, linear_relu
from hallmark.models._network import ModelSpec

BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Width of each block's convolutions, as multiples of ``width``, and their number."""


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """``width`` is that of the first convolution (64 in the paper); the hidden layers are 64 times as wide."""
    w, drop = spec.architecture.width or 64, spec.architecture.dropout
    layers: list[nn.Module] = []
    inputs, *sides = spec.input_shape
    side = min(sides)
    for multiple, count in BLOCKS:
        for _ in range(count):
            layers.append(conv_relu(inputs, multiple * w))
            inputs = multiple * w
        if side >= 6:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    convolutions = nn.Sequential(*layers, nn.Flatten())
    size = flat_size(convolutions, spec.input_shape)
    trunk = nn.Sequential(
        convolutions, linear_relu(size, 64 * w), nn.Dropout(drop), linear_relu(64 * w, 64 * w), nn.Dropout(drop)
    )
    return trunk, nn.Linear(64 * w, len(spec.classes))
