"""ResNet-50 (He et al. 2016) with the 3x3 stem used for small images, from torchvision."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import Bottleneck

from hallmark.models._blocks import residual_width
from hallmark.models._network import ModelSpec
from hallmark.models._residual import residual_trunk


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """``width`` is that of the stem (64 in the paper), doubled at each of the three later groups; features 32 width."""
    w = residual_width(spec)
    return residual_trunk(spec, Bottleneck, [3, 4, 6, 3]), nn.Linear(w * 8 * Bottleneck.expansion, len(spec.classes))
