"""Probes: small classifiers on frozen features, as the user of an encoder trains them on own labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import models, training
from hallmark.config import Count, Params, Training
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime

Encode = Callable[[Tensor], Tensor]
"""From uint8 images ``[N, C, H, W]`` to float32 features ``[N, D]`` on the CPU."""
Classifier = Callable[[Tensor], Tensor]
"""From float32 features ``[N, D]`` to logits ``[N, K]``, both on the CPU."""


class MLP(Params):
    """Block ``mlp``: a probe with a hidden layer."""

    hidden: Count = 128
    training: Training = Training(epochs=20, batch_size=100, lr=1e-3, weight_decay=1e-4)


def encoder(network: Network, runtime: Runtime) -> Encode:
    """A network in memory as an encoder."""
    return lambda images: models.features(network, images, runtime)


def linear(features: Tensor, labels: Tensor, classes: int) -> Classifier:
    """A linear probe; arguments as for :func:`hallmark.models.linear_probe`."""
    return models.linear_probe(features, labels, classes)


def mlp(features: Tensor, labels: Tensor, classes: int, config: MLP, runtime: Runtime, *, purpose: str) -> Classifier:
    """A probe of two layers on standardised features.

    Args:
        features: float32 ``[N, D]``.
        labels: int64 ``[N]``.
        purpose: names the random streams.
    """
    mean, spread = models.standardisation(features)
    with runtime.seeded(f"{purpose}/init"):
        layers = nn.Sequential(
            nn.Linear(features.shape[1], config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes)
        ).to(runtime.device)
    x, y = ((features - mean) / spread).to(runtime.device), labels.to(runtime.device)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(layers(x[index]).float(), y[index])}

    training.fit(layers, len(x), losses, config.training, runtime, purpose=purpose)

    @torch.no_grad()
    def classify(found: Tensor) -> Tensor:
        return layers(((found - mean) / spread).to(runtime.device)).float().cpu()

    return classify


def prototypes(features: Tensor, labels: Tensor, classes: int) -> Classifier:
    """No classifier at all: the nearest class mean of standardised features, by cosine.

    Needs nobody's training, so a judge can measure the features themselves.

    Args:
        features: float32 ``[N, D]`` of the judge's labelled images; every class has some.
        labels: int64 ``[N]``.
    """
    mean, spread = models.standardisation(features)
    x = (features - mean) / spread
    means = F.normalize(torch.stack([x[labels == label].mean(0) for label in range(classes)]), dim=1)
    return lambda found: F.normalize((found - mean) / spread, dim=1) @ means.T


def attach(network: Network, data: ImageDataset, runtime: Runtime) -> None:
    """Give an encoder a linear probe on ``data`` as its head, in place: then it is a classifier of its classes.

    The trunk's features stay what they are, so the folder that :func:`hallmark.models.save` writes is an encoder all
    the same.
    """
    features = models.features(network, data.images, runtime)
    network.head = models.linear_probe(features, data.labels, len(data.classes)).to(runtime.device)
    network.eval()
