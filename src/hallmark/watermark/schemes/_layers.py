"""What a network's late layers see: for losses on representations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hallmark.models import Network

LAYERS = 3
"""The last so many layers: the original networks' convolutions and hidden layer, or the late residual blocks."""


@contextmanager
def tapped(network: Network) -> Iterator[list[Tensor]]:
    """Within the block the list holds, after each pass, the outputs of the last :data:`LAYERS` layers of the trunk.

    A layer is a child of the trunk that has weights: a block of convolutions, a hidden layer, a residual block or a
    group of them.  The outputs are float32 ``[B, D]``, from the first such layer to the last.
    """
    found: list[Tensor] = []
    children = [child for child in network.trunk.children() if any(True for _ in child.parameters())][-LAYERS:]

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module is children[0]:
            found.clear()
        found.append(output.float().flatten(1))

    handles = [child.register_forward_hook(hook) for child in children]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
