"""What all thieves share: their images, a fresh network of their own choice, fitting to answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from hallmark import config, models, training
from hallmark.config import Architecture, Count, Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.registry import Registry
from hallmark.runtime import Runtime
from hallmark.training.augment import augment

attacks = Registry("hallmark.extraction.attacks", "extraction attack", ("Params", "steal"))


class AttackParams(config.Params):
    """What every attack's ``Params`` begins with."""

    method: str
    """The module of :mod:`hallmark.extraction.attacks`."""
    budget: Count
    """Images that the thief may ask the victim."""
    architecture: Architecture
    training: Training

    @model_validator(mode="after")
    def _no_mixing(self) -> AttackParams:
        if self.training.mix != "none":
            raise ValueError("training.mix: the victim's answers belong to the images as asked; set it to none")
        return self


def attack_params(block: Mapping[str, Any], where: str) -> tuple[ModuleType, AttackParams]:
    """Look up the method that a block of params.yaml names, and validate the block by its ``Params``.

    Raises:
        UserError: no such method, or the block is invalid.
    """
    method = block.get("method")
    if not isinstance(method, str):
        raise UserError(f"{where}.method: missing; choose one of {', '.join(attacks.names())}")
    module = attacks.get(method)
    return module, config.parse(module.Params, block, where)


@dataclass(frozen=True)
class Thief:
    """A thief's means.

    Attributes:
        data: the thief's own images.  Their labels are the thief's as well; only attacks that say so use them.
        purpose: names the random streams.
        callback: gets the mean losses of each epoch.
        where: the attack's block in params.yaml, for messages.
    """

    data: ImageDataset
    runtime: Runtime
    purpose: str
    callback: training.EpochCallback = training.no_callback
    where: str = "extract_attack"

    def network(self, architecture: Architecture) -> Network:
        """A freshly initialised network for the thief's images and classes."""
        return models.build(architecture, self.data.images, self.data.classes, self.runtime, f"{self.purpose}/init")

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
                f"lower it, or raise the size of the queries split"
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


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softened answers || softened student) (Hinton et al. 2015, section 2).

    A black box gives probabilities, not logits; softmax(log p / T) softens them just the same.

    Args:
        logits: the student's, ``[B, K]``.
        answers: the victim's probabilities, ``[B, K]``.
        temperature: 1 fits the answers as they are; more gives the unlikely classes more weight.
    """
    # Probabilities below single precision's reach are one fact: as good as impossible.
    teacher = (answers.clamp_min(1e-8).log() / temperature).log_softmax(1)
    student = (logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def agreement(copy: Network, victim: Network, images: Tensor, runtime: Runtime) -> float:
    """Fidelity: share of images on which both networks name the same class, 0-1 (Jagielski et al. 2020)."""
    answers = [models.logits(network, images, runtime).argmax(1) for network in (copy, victim)]
    return float((answers[0] == answers[1]).float().mean())
