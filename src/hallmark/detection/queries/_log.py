"""What was asked, and what the owner compares it with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hallmark import models
from hallmark.data.dataset import ImageDataset
from hallmark.detection.finding import Finding
from hallmark.models import Network
from hallmark.runtime import Runtime


@dataclass(frozen=True)
class Log:
    """The queries of one user, in their order.

    Attributes:
        images: uint8 ``[N, C, H, W]``.
        network: the owner's model, which answered them.
        trusted: the owner's images of the task that the model was not trained on.
    """

    images: Tensor
    network: Network
    trusted: ImageDataset
    runtime: Runtime

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """Features ``[N, D]`` and labels ``[N]`` of the queries."""
        features, logits = models.features_and_logits(self.network, self.images, self.runtime)
        return features, logits.argmax(1)

    @cached_property
    def usual(self) -> tuple[Tensor, Tensor]:
        """The same of the trusted images; the labels are the model's as well."""
        features, logits = models.features_and_logits(self.network, self.trusted.images, self.runtime)
        return features, logits.argmax(1)

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Positions of two random halves of the trusted images: one says what is usual, the other sets a threshold."""
        order = torch.randperm(len(self.trusted), generator=self.runtime.generator("detection/halves"))
        return order[: len(order) // 2], order[len(order) // 2 :]

    def by_class(self, least: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each class, and the positions ``[n]`` of the queries and of the trusted images that are answered with it.

        Args:
            least: classes of fewer, of either, are left out.
        """
        for label in range(len(self.trusted.classes)):
            asked, known = ((labels == label).nonzero()[:, 0] for labels in (self.answers[1], self.usual[1]))
            if min(len(asked), len(known)) >= least:
                yield label, asked, known

    def refused(self, scores: Tensor, flagged: Tensor) -> Finding:
        """The finding of a detector that refuses single queries: the score is the share that it refuses.

        Args:
            scores: float ``[N]``.
            flagged: bool ``[N]``.
        """
        labels, classes = self.answers[1], torch.full((len(self.trusted.classes),), torch.nan, dtype=torch.float64)
        for label in labels.unique().tolist():
            classes[label] = flagged[labels == label].double().mean()
        return Finding(float(flagged.double().mean()), classes, math.nan, scores.double(), flagged)
