"""Plain supervised training of a classifier: the suspect, benign, unmarked and control models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training.augment import augment, mix
from hallmark.training.loop import EpochCallback, fit, no_callback


def train_classifier(
    network: Network,
    images: Tensor,
    targets: Tensor,
    config: Training,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
) -> None:
    """Minimise the cross-entropy in place.

    Args:
        images: uint8 ``[N, C, H, W]``.
        targets: int64 labels ``[N]``, or float32 probabilities ``[N, K]`` (soft labels).
        purpose: names the random streams.
    """
    images, targets = images.to(runtime.device), targets.to(runtime.device)
    if targets.dtype == torch.int64:
        targets = F.one_hot(targets, len(network.spec.classes)).float()
    generator = runtime.generator(f"{purpose}/augment")

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        x = augment(to_float(images[index]), config, generator)
        x, y = mix(x, targets[index], config, generator)
        return {"cross_entropy": F.cross_entropy(network(x).float(), y)}

    fit(network, len(images), losses, config, runtime, purpose=purpose, callback=callback)


def accuracy(network: Network, data: ImageDataset, runtime: Runtime) -> float:
    """Share of ``data`` classified as labelled, 0-1."""
    return float((models.logits(network, data.images, runtime).argmax(1) == data.labels).float().mean())
