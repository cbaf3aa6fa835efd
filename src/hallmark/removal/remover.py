"""What all removals share: the thief's means, a copy to work on, and learning from the thief's own images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from hallmark import config, training
from hallmark.config import Count, Positive, Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.extraction import Oracle, Query, Thief
from hallmark.extraction.oracle import one_hot
from hallmark.extraction.thief import distillation_loss
from hallmark.models import Network
from hallmark.registry import Registry
from hallmark.runtime import Runtime
from hallmark.training.augment import augment

registry = Registry("hallmark.removal.methods", "removal", ("Params", "remove"))


class RemovalParams(config.Params):
    """What every removal's ``Params`` begins with."""

    method: str
    """The module of :mod:`hallmark.removal.methods`."""


class Lessons(RemovalParams):
    """Parameters of a removal that trains the model on the thief's own images."""

    labels: Literal["victim", "ground_truth"]
    """What the images are said to be: the victim's answers (probabilities), or their true labels."""
    images: Count
    """How many of the thief's own, drawn at random."""
    temperature: Positive = 1.0
    """Softens the victim's answers and the model, as in distillation; 1: as they are."""
    training: Training

    @model_validator(mode="after")
    def _consistent(self) -> Lessons:
        if self.labels == "ground_truth" and self.temperature != 1:
            raise ValueError(f"temperature: a true label has no softness that {self.temperature:g} could bring out")
        if self.training.mix != "none":
            raise ValueError("training.mix: a removal fits the images as they are; set it to none")
        return self


def removal_params(block: Mapping[str, Any], where: str) -> tuple[ModuleType, RemovalParams]:
    """Look up the method that a block of parameters names, and validate the block by its ``Params``.

    Raises:
        UserError: no such method, or the block is invalid.
    """
    method = block.get("method")
    if not isinstance(method, str):
        raise UserError(f"{where}.method: missing; choose one of {', '.join(registry.names())}")
    module = registry.get(method)
    return module, config.parse(module.Params, block, where)


@dataclass(frozen=True)
class Means:
    """What the thief has besides the model.

    Attributes:
        data: the thief's own images, with their true labels.
        ask: the victim: float images in 0-1 to probabilities.
        purpose: names the random streams.
        callback: gets the mean losses of each epoch.
        where: the removal's block, for messages.
        raw: folder of downloaded data sets, for a removal that wants another one.
    """

    data: ImageDataset
    ask: Query
    runtime: Runtime
    purpose: str
    callback: training.EpochCallback = training.no_callback
    where: str = "remove_watermark"
    raw: Path = Path("data/raw")

    @property
    def thief(self) -> Thief:
        """The same, as an extraction attack wants it."""
        return Thief(self.data, self.runtime, self.purpose, self.callback, self.where)

    def part(self, name: str) -> Means:
        """Means with random streams of their own, for a part of a removal; ``name`` is its place in the block."""
        return replace(self, purpose=f"{self.purpose}/{name}", where=f"{self.where}.{name}")

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of this removal."""
        return self.runtime.generator(f"{self.purpose}/{purpose}")

    def choose(self, count: int, parameter: str = "images") -> ImageDataset:
        """``count`` of the thief's images at random, without repetition.

        Raises:
            UserError: more than there are; names ``parameter``.
        """
        return self.data.subset(self.thief.choose(count, parameter))

    def lesson(self, block: Lessons) -> Lesson:
        """The images that a block asks for, with what they are said to be, on the device.

        Raises:
            UserError: more images than there are.
        """
        chosen, device = self.choose(block.images), self.runtime.device
        if block.labels == "victim":
            targets = Oracle(self.ask, block.images)(chosen.images)
        else:
            targets = one_hot(chosen.labels, len(self.data.classes))
        return Lesson(chosen.images.to(device), targets.to(device), block.temperature, block.training, self)


@dataclass(frozen=True)
class Lesson:
    """Images to learn from, on the device.

    Attributes:
        images: uint8 ``[N, C, H, W]``.
        targets: float32 probabilities ``[N, K]``; true labels are one-hot.
        temperature: of :func:`hallmark.extraction.thief.distillation_loss`, which is the cross-entropy for one-hot
            targets at 1.
    """

    images: Tensor
    targets: Tensor
    temperature: float
    training: Training
    means: Means

    def batches(self) -> Callable[[Tensor], Tensor]:
        """From int64 indices ``[B]`` to float images ``[B, C, H, W]`` in 0-1, augmented as ``training`` says."""
        generator = self.means.generator("augment")
        return lambda index: augment(to_float(self.images[index]), self.training, generator)

    def loss(self, logits: Tensor, index: Tensor) -> Tensor:
        """How badly logits ``[B, K]`` fit the targets of the images ``index``; a scalar."""
        return distillation_loss(logits.float(), self.targets[index], self.temperature)

    def fit(
        self, network: nn.Module, losses: training.Losses, *, combine: training.Combine | None = None, name: str = ""
    ) -> None:
        """Train ``network`` in place by the one training loop.

        Args:
            name: of a training that is one of several, for its random streams.
        """
        means = self.means
        purpose = f"{means.purpose}/{name}" if name else means.purpose
        training.fit(
            network,
            len(self.images),
            losses,
            self.training,
            means.runtime,
            purpose=purpose,
            combine=combine,
            callback=means.callback,
        )


def duplicate(network: Network) -> Network:
    """A copy to work on, in evaluation mode."""
    return copy.deepcopy(network).eval()


def reinitialise_head(network: Network, means: Means) -> None:
    """Draw the last layer afresh, in place, as its kind of layer is initialised."""
    head = network.head
    assert isinstance(head, nn.Linear)  # as every architecture's is
    with means.runtime.seeded(f"{means.purpose}/head"):
        head.reset_parameters()
