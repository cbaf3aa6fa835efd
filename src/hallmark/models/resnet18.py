"""ResNet-18 (He et al. 2016) with the 3x3 stem used for small images, from torchvision."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock

from hallmark.models._blocks import residual_width
from hallmark.models._network import ModelSpec
from hallmark.models._residual import residual_trunk


class _NarrowBlock(BasicBlock):
    """torchvision refuses a base width other than 64 in a BasicBlock; the planes carry it here."""


def build(spec: ModelSpec) -> tuple[nn.Module, nn.Module]:
    """``width`` is that of the stem (64 in the paper), doubled at each of the three later groups."""
    w = residual_width(spec)
    return residual_trunk(spec, _NarrowBlock, [2, 2, 2, 2]), nn.Linear(w << 3, len(spec.classes))
