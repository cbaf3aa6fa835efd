"""What the residual networks from torchvision share."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from hallmark.models._blocks import GlobalAverage, residual_width
from hallmark.models._network import ModelSpec


def residual_trunk(spec: ModelSpec, block: type[BasicBlock | Bottleneck], counts: list[int]) -> nn.Module:
    """torchvision's residual groups behind the 3x3 stem used for small images; ``[B, C, H, W]`` to ``[B, D]``.

    Args:
        block: whose ``expansion`` times 8 times the width is D.
        counts: blocks of each of the four groups.
    """
    w = residual_width(spec)
    net = ResNet(block, counts, num_classes=len(spec.classes))
    net.inplanes = w
    groups = [net._make_layer(block, w << i, count, stride=1 if i == 0 else 2) for i, count in enumerate(counts)]
    stem = nn.Conv2d(spec.input_shape[0], w, 3, padding=1, bias=False)
    trunk = nn.Sequential(
        stem, nn.BatchNorm2d(w), nn.ReLU(inplace=True), *groups, GlobalAverage(), nn.Dropout(spec.architecture.dropout)
    )
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk
