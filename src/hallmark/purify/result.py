"""What every sanitizer gets and gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Architecture, Training
from hallmark.data.dataset import ImageDataset
from hallmark.diffusion.model import DiffusionModel
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, train_classifier

KEPT, RELABELLED, DROPPED = 0, 1, 2
ACTIONS = ("kept", "relabelled", "dropped")
"""The names of the codes above, as they stand in the manifest."""


def train(
    network: Network,
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    training: Training,
    runtime: Runtime,
    epochs: Callable[[str], EpochCallback],
) -> None:
    """Train one of the sanitizer's classifiers in place.

    Raises:
        UserError: a loss stopped being finite.
    """
    try:
        train_classifier(network, images, labels, training, runtime, purpose=f"purify/{name}", callback=epochs(name))
    except FloatingPointError as error:
        raise UserError(f"purify_data.training: {error}; lower lr or set clip_norm") from None


@dataclass(frozen=True)
class Material:
    """What a sanitizer works with.

    Attributes:
        data: the training set of doubtful origin.
        reserve: trusted images of the same classes.
        diffusion: the purifier's model, trained on trusted images.
        suspect: a classifier trained on ``data`` as given.
        architecture, training: of the classifiers that the sanitizer trains.
        epochs: makes the callback under which a network's training curve is recorded.
    """

    data: ImageDataset
    reserve: ImageDataset
    diffusion: DiffusionModel
    suspect: Network
    architecture: Architecture
    training: Training
    runtime: Runtime
    epochs: Callable[[str], EpochCallback]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.data.classes)

    def train(self, name: str, images: Tensor, labels: Tensor) -> Network:
        """A fresh classifier of ``images`` (uint8) and ``labels`` (int64); ``name`` names its random streams."""
        network = models.build(self.architecture, images, self.data.classes, self.runtime, f"purify/{name}")
        self.tune(network, name, images, labels, self.training)
        return network

    def tune(self, network: Network, name: str, images: Tensor, labels: Tensor, training: Training) -> None:
        """Train ``network`` further, in place.

        Raises:
            UserError: a loss stopped being finite.
        """
        train(network, name, images, labels, training=training, runtime=self.runtime, epochs=self.epochs)


@dataclass(frozen=True)
class Purification:
    """What a sanitizer decided, one entry an image of the given set, in its order.

    Attributes:
        images: uint8 ``[N, C, H, W]``; differs from the given image only where it was replaced.
        labels: int64 ``[N]``.
        actions: int64 ``[N]``: :data:`KEPT`, :data:`RELABELLED` or :data:`DROPPED`.
        scores: float32 ``[N]``, the evidence against the given label; what it means is the method's.
        reasons: a few words for each image.
        targets: the classes called targets of a backdoor.
        class_scores: float ``[K]``, NaN where a class gave no evidence.
        threshold: the score from which a class is called a target.
        rounds: uint8 ``[N, R, C, H, W]``, the end of each round of diffusion.
        metrics: whatever else the method measured, shares in 0-1.
    """

    images: Tensor
    labels: Tensor
    actions: Tensor
    scores: Tensor
    reasons: tuple[str, ...]
    targets: tuple[int, ...]
    class_scores: Tensor
    threshold: float
    rounds: Tensor
    metrics: Mapping[str, Any] = field(default_factory=dict)

    COLUMNS: ClassVar[tuple[str, ...]] = ("id", "given_label", "label", "action", "score", "reason")
    """Of the manifest."""

    def manifest(self, data: ImageDataset) -> Iterator[dict[str, Any]]:
        """One row for each given image, dropped ones included."""
        columns = (data.ids, data.labels, self.labels, self.actions, self.scores)
        for i, given, label, action, score, reason in zip(*(c.tolist() for c in columns), self.reasons, strict=True):
            yield dict(zip(self.COLUMNS, (i, given, label, ACTIONS[action], score, reason), strict=True))

    def dataset(self, data: ImageDataset) -> ImageDataset:
        """The purified set: what was not dropped of ``data``, with the new images and labels."""
        keep = self.actions != DROPPED
        return ImageDataset(self.images[keep], self.labels[keep], data.ids[keep], data.classes)

    def verdict(self, data: ImageDataset) -> str:
        """One line for people."""
        kept, relabelled, dropped = torch.bincount(self.actions, minlength=len(ACTIONS)).tolist()
        replaced = int((self.images != data.images).flatten(1).any(1).sum())
        if not self.targets and kept == len(data) and not replaced:
            return f"no sign of a backdoor in {len(data):,} images; labels and images are unchanged"
        names = ", ".join(data.classes[c] for c in self.targets) or "no class"
        return f"backdoor into {names}: of {len(data):,} images {relabelled:,} relabelled, {dropped:,} dropped"

    def summary(self, data: ImageDataset) -> dict[str, Any]:
        """Counts, shares and scores for metrics.json; nothing here needs ground truth."""
        counts = torch.bincount(self.actions, minlength=len(ACTIONS)).tolist()
        replaced = (self.images != data.images).flatten(1).any(1) & (self.actions != DROPPED)
        return {
            "images": len(data),
            **dict(zip(ACTIONS, counts, strict=True)),
            "flagged_share": 1 - counts[KEPT] / max(len(data), 1),
            "images_replaced": int(replaced.sum()),
            "targets": [data.classes[c] for c in self.targets],
            "targets_found": len(self.targets),
            "target_threshold": self.threshold,
            "class_scores": {
                name: float(score)
                for name, score in zip(data.classes, self.class_scores, strict=True)
                if not math.isnan(score)
            },
            **self.metrics,
        }
