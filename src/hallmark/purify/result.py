"""What every sanitizer gets and gives."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hallmark import distributed, models
from hallmark.config import Architecture, Rounds, Training
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify.purifier import Purifier
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, train_classifier

KEPT, RELABELLED, PURIFIED, DROPPED = 0, 1, 2, 3
ACTIONS = ("kept", "relabelled", "purified", "dropped")
"""The names of the codes above, as they stand in the manifest: purified images keep their label, relabelled ones
are purified as well."""


def warn(message: str) -> None:
    """One line on stderr, from one process of several; nothing if there is nothing to say."""
    if message and distributed.rank() == 0:
        print(f"warning: {message}", file=sys.stderr)


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
        purifier: noises and denoises images with a diffusion model that was trained on trusted images.
        suspect: a classifier trained on ``data`` as given.
        architecture, training: of the classifiers that the sanitizer trains.
        epochs: makes the callback under which a network's training curve is recorded.
        judges: classifiers of the reserve alone, by :func:`hallmark.purify.reserve.key`; they are trained once and
            kept here, for the next sanitizer, or the next data set of the same reserve, purifier and runtime.
        duplicates: copies of trusted images that were left out of the reserve.
    """

    data: ImageDataset
    reserve: ImageDataset
    purifier: Purifier
    suspect: Network
    architecture: Architecture
    training: Training
    runtime: Runtime
    epochs: Callable[[str], EpochCallback]
    judges: MutableMapping[str, Any] = field(default_factory=dict)
    duplicates: int = 0

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


UNSURE, NO_OTHER = "benign model not sure of a label", "benign model gives no other label"
"""Why a flagged image is dropped though it was to be restored: the end of its reason."""


@dataclass(frozen=True)
class Findings:
    """What a sanitizer found, one entry an image of the given set, in its order.

    Attributes:
        flagged: bool ``[N]``, the images that must not stay as they are.
        scores: float32 ``[N]``, the evidence against the image, higher is worse; its scale is the method's.
        reasons: a few words for each image.
        targets: the classes called targets of a backdoor; a method that names none leaves it empty.
        class_scores: float ``[K]``, NaN where a class gave no evidence; None if the method scores no classes.
        threshold: the class score from which a class is called a target.
        restored: labels int64 ``[S]`` and images uint8 ``[S, C, H, W]`` of the flagged images, in their order,
            if the method has a rule of its own to restore them (the authors').
        rounds: what the images were sent through, if not ``purify_data.rounds``.
        metrics: whatever else the method measured, shares in 0-1.
    """

    flagged: Tensor
    scores: Tensor
    reasons: tuple[str, ...]
    targets: tuple[int, ...] = ()
    class_scores: Tensor | None = None
    threshold: float = math.nan
    restored: tuple[Tensor, Tensor] | None = None
    rounds: Rounds | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Purification:
    """A sanitizer's findings and what was done about them, one entry an image of the given set, in its order.

    Attributes:
        findings: what the decisions rest on.
        images: uint8 ``[N, C, H, W]``; differs from the given image only where it was replaced.
        labels: int64 ``[N]``.
        actions: int64 ``[N]``: :data:`KEPT`, :data:`RELABELLED`, :data:`PURIFIED` or :data:`DROPPED`.
        reasons: a few words for each image.
        added: trusted images that the purified set has besides, or None.
        metrics: what the repair measured, shares in 0-1.
    """

    findings: Findings
    images: Tensor
    labels: Tensor
    actions: Tensor
    reasons: tuple[str, ...]
    added: ImageDataset | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    COLUMNS: ClassVar[tuple[str, ...]] = ("id", "given_label", "label", "action", "score", "reason")
    """Of the manifest."""

    def manifest(self, data: ImageDataset) -> Iterator[dict[str, Any]]:
        """One row for each given image, dropped ones included."""
        columns = (data.ids, data.labels, self.labels, self.actions, self.findings.scores)
        for i, given, label, action, score, reason in zip(*(c.tolist() for c in columns), self.reasons, strict=True):
            yield dict(zip(self.COLUMNS, (i, given, label, ACTIONS[action], score, reason), strict=True))

    def dataset(self, data: ImageDataset) -> ImageDataset:
        """The purified set: what was not dropped of ``data``, with the new images and labels, and what was added."""
        keep = self.actions != DROPPED
        kept = ImageDataset(self.images[keep], self.labels[keep], data.ids[keep], data.classes)
        if self.added is None:
            return kept
        both = kept, self.added
        return replace(
            kept,
            images=torch.cat([part.images for part in both]),
            labels=torch.cat([part.labels for part in both]),
            ids=torch.cat([part.ids for part in both]),
        )

    def classes_lost(self, data: ImageDataset) -> tuple[int, ...]:
        """The given labels that no image of the purified set has, ascending."""
        left = set(self.labels[self.actions != DROPPED].tolist())
        if self.added is not None:
            left |= set(self.added.labels.tolist())
        return tuple(sorted(set(data.labels.tolist()) - left))

    def verdict(self, data: ImageDataset) -> str:
        """One line for people."""
        counts = torch.bincount(self.actions, minlength=len(ACTIONS)).tolist()
        if counts[KEPT] == len(data):
            return f"no sign of a backdoor in {len(data):,} images; labels and images are unchanged"
        names = ", ".join(data.classes[c] for c in self.findings.targets)
        where = f"backdoor into {names}: " if names else ""
        done = ", ".join(f"{n:,} {name}" for name, n in zip(ACTIONS[1:], counts[1:], strict=True))
        why = {words: sum(reason.endswith(words) for reason in self.reasons) for words in (UNSURE, NO_OTHER)}
        told = "".join(f", {count:,} for {words}" for words, count in why.items() if count)
        added = "" if self.added is None else f"; {len(self.added):,} trusted images added"
        return f"{where}of {len(data):,} images {done}{told}{added}"

    def summary(self, data: ImageDataset) -> dict[str, Any]:
        """Counts, shares and scores for metrics.json; nothing here needs ground truth.

        ``flagged_share_of_class`` is the largest flagged share of a class.
        """
        counts = torch.bincount(self.actions, minlength=len(ACTIONS)).tolist()
        flagged = [float((self.actions[data.labels == c] != KEPT).float().mean()) for c in data.labels.unique()]
        replaced = (self.images != data.images).flatten(1).any(1) & (self.actions != DROPPED)
        found = self.findings
        scored = [] if found.class_scores is None else zip(data.classes, found.class_scores.tolist(), strict=True)
        values = {
            "images": len(data),
            **dict(zip(ACTIONS, counts, strict=True)),
            "added": 0 if self.added is None else len(self.added),
            "flagged_share": 1 - counts[KEPT] / max(len(data), 1),
            "flagged_share_of_class": max(flagged, default=0.0),
            "classes_lost": len(self.classes_lost(data)),
            "images_replaced": int(replaced.sum()),
            "targets": [data.classes[c] for c in found.targets],
            "targets_found": len(found.targets),
            "class_scores": {name: score for name, score in scored if not math.isnan(score)},
        }
        if not math.isnan(found.threshold):
            values["target_threshold"] = found.threshold
        return {**values, **found.metrics, **self.metrics}
