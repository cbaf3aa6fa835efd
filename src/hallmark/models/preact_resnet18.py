"""PreAct-ResNet-18 (He et al. 2016b, "Identity mappings"), DataElixir's classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hallmark.models._blocks import GlobalAverage, residual_width
from hallmark.models._network import ModelSpec


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch normalisation and ReLU; the shortcut starts after the first."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.norm1(x))
        residual = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(torch.relu(self.norm2(out))) + residual


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """``width`` is that of the stem (64 in the paper), doubled at each of the three later groups."""
    w = residual_width(spec)
    layers: list[nn.Module] = [nn.Conv2d(spec.input_shape[0], w, 3, padding=1, bias=False)]
    inputs = w
    for group in range(4):
        outputs = w << group
        layers += [PreActBlock(inputs, outputs, 1 if group == 0 else 2), PreActBlock(outputs, outputs, 1)]
        inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), GlobalAverage(), nn.Dropout(spec.architecture.dropout)]
    return nn.Sequential(*layers), nn.Linear(inputs, len(spec.classes))
