"""What all thieves share: their images, a fresh network of their own choice, fitting to answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional as F

from hallmark import config, models, training
from hallmark.config import Architecture, ClassLabel, Count, Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError, naming
from hallmark.extraction import transfer
from hallmark.extraction.oracle import Answers, Oracle, Query, answered, hiding
from hallmark.extraction.transfer import OwnImages
from hallmark.models import Network
from hallmark.registry import Registry
from hallmark.runtime import Runtime
from hallmark.training.augment import augment

registry = Registry("hallmark.extraction.attacks", "extraction attack", ("Params", "steal"))


class AttackParams(config.Params):
    """What every attack's ``Params`` begins with."""

    method: str
    """The module of :mod:`hallmark.extraction.attacks`."""
    budget: Count
    """Images that the thief may ask the victim."""
    architecture: Architecture
    training: Training
    answers: Answers = Answers()
    """What the victim tells.  A form without a number may stand alone: ``answers: labels``."""
    hide: list[ClassLabel] = Field(default=[])
    """Classes that the thief suspects: set to 0 in every answer, the others scaled up, before anything is fitted."""
    hide_first: bool = True
    """Hide them also where they are the answer's first choice: the copy then never learns these classes.  False:
    only as runners-up."""
    images: OwnImages = None

    @field_validator("answers", mode="before")
    @classmethod
    def _form_alone(cls, value: Any) -> Any:
        return {"form": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> AttackParams:
        if self.training.mix != "none":
            raise ValueError("training.mix: the victim's answers belong to the images as asked; set it to none")
        temperature = getattr(self, "temperature", 1.0)
        if self.answers.form == "labels" and temperature != 1:
            raise ValueError(
                f"temperature: a label has no softness that {temperature:g} could bring out; set it to 1 with "
                "answers: labels"
            )
        if not self.hide and not self.hide_first:
            raise ValueError("hide_first: hides nothing without hide; take it out or name classes")
        return self

    def oracle(self, query: Query, classes: tuple[str, ...], where: str, *, rounds: bool = False) -> Oracle:
        """The victim as this thief sees it: its answers in their form, cleaned of hidden classes, on a budget.

        Args:
            query: the victim's probabilities.
            classes: the victim's.
            where: the attack's block, for messages.
            rounds: see :class:`Oracle`.

        Raises:
            UserError: more top classes than there are, or a hidden class that the victim does not have.
        """
        hidden = [_class_number(label, classes, f"{where}.hide") for label in self.hide]
        if len(classes) - len(set(hidden)) < 2:
            raise UserError(f"{where}.hide: leaves fewer than two of {len(classes)} classes; name fewer")
        shown = hiding(answered(query, self.answers, classes, where), hidden, first=self.hide_first)
        return Oracle(shown, self.budget, rounds=rounds)


def _class_number(label: int | str, classes: tuple[str, ...], where: str) -> int:
    number = classes.index(label) if label in classes else label
    if not isinstance(number, int) or number >= len(classes):
        raise UserError(f"{where}: the victim has no class {label!r}; it has {', '.join(classes[:12])}")
    return number


def attack_params(block: Mapping[str, Any], where: str) -> tuple[ModuleType, AttackParams]:
    """Look up the method that a block of params.yaml names, and validate the block by its ``Params``.

    Raises:
        UserError: no such method, or the block is invalid.
    """
    method = block.get("method")
    if not isinstance(method, str):
        raise UserError(f"{where}.method: missing; choose one of {', '.join(registry.names())}")
    with naming(f"{where}.method"):
        module = registry.get(method)
    return module, config.parse(module.Params, block, where)


@dataclass(frozen=True)
class Thief:
    """A thief's means.

    Attributes:
        data: the thief's own images.  Their labels are the thief's as well; only attacks that say so use them.
        purpose: names the random streams.
        callback: gets the mean losses of each epoch.
        where: the attack's block in params.yaml, for messages.
        classes: the victim's, which the copy gets; None: those of ``data``, which are the same in the pipeline.
    """

    data: ImageDataset
    runtime: Runtime
    purpose: str
    callback: training.EpochCallback = training.no_callback
    where: str = "extract_attack"
    classes: tuple[str, ...] | None = None

    def network(self, architecture: Architecture) -> Network:
        """A freshly initialised network for the thief's images and the victim's classes."""
        classes = self.classes or self.data.classes
        return models.build(architecture, self.data.images, classes, self.runtime, f"{self.purpose}/init")

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator of this thief."""
        return self.runtime.generator(f"{self.purpose}/{purpose}")

    def choose(self, count: int, parameter: str) -> Tensor:
        """``count`` of the thief's images at random, without repetition: positions, int64.

        Raises:
            UserError: more than there are; names ``parameter``.
        """
        if count > len(self.data):
            raise UserError(
                f"{self.where}.{parameter}: {count:,} exceeds the query set of {len(self.data):,} images; "
                f"lower it, or give the thief more images (prepare_data.queries, or another data set)"
            )
        return torch.randperm(len(self.data), generator=self.generator("choice"))[:count]

    def fit(
        self, network: Network, images: Tensor, answers: Tensor, config: Training, temperature: float = 1.0
    ) -> None:
        """Fit the network to the victim's answers, in place, by :func:`distillation_loss`.

        Args:
            images: uint8 ``[N, C, H, W]``.
            answers: float32 probabilities ``[N, K]``.
        """
        device = self.runtime.device
        images, answers = images.to(device), answers.to(device)
        generator = self.generator("augment")

        def losses(index: Tensor) -> Mapping[str, Tensor]:
            x = augment(to_float(images[index]), config, generator)
            return {"distillation": distillation_loss(network(x).float(), answers[index], temperature)}

        training.fit(network, len(images), losses, config, self.runtime, purpose=self.purpose, callback=self.callback)


@dataclass(frozen=True)
class Stolen:
    """What a theft yields.

    Attributes:
        network: the copy.
        queries: images that the victim was asked.
        images_sha256: of the transfer set's file; None: the thief asked his images of the pipeline.
    """

    network: Network
    queries: int
    images_sha256: str | None


def steal(
    module: ModuleType,
    block: AttackParams,
    query: Query,
    thief: Thief,
    *,
    rounds: bool = False,
    raw: Path | None = None,
) -> Stolen:
    """Rob a victim: the one way in which a thief gets his images and his sight of the victim from his block.

    Args:
        module, block: of :func:`attack_params`.
        query: the victim's probabilities.
        thief: with images of the victim's shape, which a transfer set of the block replaces.
        rounds: see :class:`Oracle`.
        raw: folder of downloaded data sets, for a transfer set; None: ``data/raw``.

    Raises:
        UserError: the block does not fit the victim or the images, or the budget does not suffice.
    """
    classes, digest = thief.classes or thief.data.classes, None
    if block.images is not None:
        images, digest = transfer.load(block.images, thief.data.shape, raw or Path("data/raw"), thief.where)
        thief = replace(thief, data=images, classes=classes)
    oracle = block.oracle(query, classes, thief.where, rounds=rounds)
    return Stolen(module.steal(oracle, thief, block), oracle.used, digest)


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softened answers || softened student) (Hinton et al. 2015, section 2).

    A black box gives probabilities, not logits; softmax(log p / T) softens them just the same.  At T = 1 and with
    labels (one-hot answers) it is the cross-entropy to the label, up to 1e-7 a class.

    Args:
        logits: the student's, ``[B, K]``.
        answers: the victim's probabilities, ``[B, K]``.
        temperature: 1 fits the answers as they are; more gives the unlikely classes more weight.
    """
    # Probabilities below single precision's reach are one fact: as good as impossible.
    teacher = (answers.clamp_min(1e-8).log() / temperature).log_softmax(1)
    student = (logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def agreement(copy: Network, labels: Tensor, images: Tensor, runtime: Runtime) -> float:
    """Fidelity: share of images on which copy and victim name the same class, 0-1 (Jagielski et al. 2020).

    Args:
        labels: the victim's first choices, int64 ``[N]``; a negative one is no class and agrees with none.
        images: uint8 ``[N, C, H, W]``.
    """
    return float((models.logits(copy, images, runtime).argmax(1) == labels).float().mean())
