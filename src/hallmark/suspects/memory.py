"""A Hallmark network as a suspect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hallmark import models
from hallmark.errors import naming
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.suspects.adapt import Adapter, Classes, Input
from hallmark.suspects.local import Local


def suspect(
    network: Network,
    runtime: Runtime,
    classes: Classes,
    shape: tuple[int, int, int],
    *,
    where: str = "the network in memory",
    description: dict[str, Any] | None = None,
    answer: Callable[[Network, Tensor, Runtime], Tensor] = models.logits,
) -> Local:
    """A network in memory behind the interface of every suspect.

    Args:
        classes: the network's, matched to ours.
        shape: (C, H, W) of our images; they are made the network's size and channels.
        answer: what it says of them; :func:`hallmark.models.features` makes it an encoder.

    Raises:
        UserError: the network has another number of classes.
    """
    c, h, w = network.spec.shape
    with naming(where):
        channels = 3 if c == 3 else 1
        adapter = Adapter(Input(size=[h, w], channels=channels, dtype="uint8"), shape)
    # uint8 goes into models.logits as it does everywhere else, so labels are the same to the last bit.
    return Local(
        lambda images: answer(network, images, runtime),
        adapter,
        classes,
        "logits",
        where,
        description or {"kind": "memory", "architecture": network.spec.architecture.name},
    )
