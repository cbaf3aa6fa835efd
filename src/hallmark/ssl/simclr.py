"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import training
from hallmark.config import Count, Params, Positive, Training
from hallmark.data.dataset import to_float
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.ssl.views import Views, view

Losses = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Named losses from float32 features with gradient: of a batch's two views ``[2B, D]`` and of a mark's own images."""
Extra = Callable[[], tuple[Tensor, Losses]]
"""A mark's part in a batch, drawn afresh: images of its own, float ``[M, C, H, W]`` in 0-1 on the device, and losses.

They go through the network with the views, in one pass, so that batch normalisation has one mean for all.
"""


class SimCLR(Params):
    """Block ``simclr``: contrastive learning without labels."""

    temperature: Positive = 0.5
    projection: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(default=[128, 64])
    """Hidden and output size of the projection head, which is thrown away."""
    views: Views = Views()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (equation 1), the mean over both directions of all pairs.

    Args:
        first, second: projections ``[B, P]`` of two views of the same images, in the same order.
    """
    together = F.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = together @ together.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(together), dtype=torch.bool, device=first.device), -torch.inf)
    partner = torch.arange(len(together), device=first.device).roll(len(first))
    return F.cross_entropy(similarity, partner)


def projector(size: int, config: SimCLR) -> nn.Module:
    """Two linear layers with batch normalisation and ReLU between, from features of ``size``."""
    hidden, output = config.projection
    # The normalisation takes the features' common mean away, which otherwise makes every similarity almost 1.
    return nn.Sequential(nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, output))


def feature_size(network: Network) -> int:
    """D of ``network.features``."""
    c, h, w = network.spec.shape
    training_mode = network.training
    with torch.no_grad():
        size = network.eval().features(torch.zeros(1, c, h, w, device=network.mean.device)).shape[1]
    network.train(training_mode)
    return size


def train(
    network: Network,
    images: Tensor,
    config: SimCLR,
    settings: Training,
    runtime: Runtime,
    *,
    purpose: str,
    extra: Extra | None = None,
    combine: training.Combine | None = None,
    callback: training.EpochCallback = training.no_callback,
) -> None:
    """Train the trunk of ``network`` in place; its head is not touched.

    Args:
        images: uint8 ``[N, C, H, W]``; no labels.
        settings: ``flip``, ``shift`` and ``mix`` are not used: :class:`Views` has the augmentation.
        purpose: names the random streams.
        extra: further losses of a batch, of a mark.
        combine: of the losses; ``utility`` is SimCLR's.  The plain sum if None.
    """
    images = images.to(runtime.device)
    draws = runtime.generator(f"{purpose}/views")
    with runtime.seeded(f"{purpose}/projector"):
        head = projector(feature_size(network), config).to(runtime.device)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        plain = to_float(images[index])
        shown = [view(plain, config.views, draws), view(plain, config.views, draws)]
        own, more = extra() if extra else (plain[:0], None)
        features = network.features(torch.cat([*shown, own]).contiguous(memory_format=torch.channels_last))
        views, marked = features[: 2 * len(plain)], features[2 * len(plain) :]
        first, second = head(views).split(len(plain))
        found = {"utility": nt_xent(first, second, config.temperature)}
        if more is None:
            return found
        with torch.autocast(features.device.type, enabled=False):  # which would round cosines and covariances
            return found | dict(more(views.float(), marked.float()))

    both = nn.ModuleList([network.trunk, head])
    training.fit(both, len(images), losses, settings, runtime, purpose=purpose, combine=combine, callback=callback)
    network.eval()
