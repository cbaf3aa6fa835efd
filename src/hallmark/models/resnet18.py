"""ResNet-18 (He et al. 2016) with the 3x3 stem used for small images, from torchvision."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from hallmark.models._blocks import GlobalAverage, residual_width
from hallmark.models._network import ModelSpec


class _NarrowBlock(BasicBlock):
    """torchvision refuses a base width other than 64 in a BasicBlock; the planes carry it here."""


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """``width`` is that of the stem (64 in the paper), doubled at each of the three later groups."""
    w = residual_width(spec)
    net = ResNet(_NarrowBlock, [2, 2, 2, 2], num_classes=len(spec.classes))
    net.inplanes = w
    groups = [net._make_layer(_NarrowBlock, w << i, 2, stride=1 if i == 0 else 2) for i in range(4)]
    stem = nn.Conv2d(spec.input_shape[0], w, 3, padding=1, bias=False)
    trunk = nn.Sequential(
        stem, nn.BatchNorm2d(w), nn.ReLU(inplace=True), *groups, GlobalAverage(), nn.Dropout(spec.architecture.dropout)
    )
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk, nn.Linear(w << 3, len(spec.classes))
