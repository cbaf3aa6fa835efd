"""Jacobian-based data set augmentation (Papernot et al. 2017): few seeds, many images made from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark.config import Count, Positive
from hallmark.data.dataset import to_float, to_uint8
from hallmark.extraction import AttackParams, Oracle, Thief
from hallmark.models import Network
from hallmark.runtime import Runtime

BATCH = 500
"""Images per Jacobian; fixed, because results may differ in the last bit between batch sizes."""


class Params(AttackParams):
    """Block of a ``jacobian`` attack."""

    seeds: Count
    """The thief's own images to begin with, chosen at random."""
    rounds: Annotated[int, Field(ge=0, le=16)]
    """Augmentation rounds; each doubles the images until the budget is spent."""
    step: Annotated[float, Field(gt=0, le=1)]
    """lambda of the paper, on pixels in 0-1."""
    round_epochs: Count
    """Epochs on what there is before each round; then ``training`` on everything, from those weights."""
    temperature: Positive = 1.0
    """As in distillation; 1 fits the answers as they are."""

    @model_validator(mode="after")
    def _seeds_within_budget(self) -> Params:
        if self.seeds > self.budget:
            raise ValueError(f"seeds: {self.seeds:,} exceeds the budget of {self.budget:,}; lower it")
        return self


def steal(oracle: Oracle, thief: Thief, params: Params) -> Network:
    """Algorithm 1 of the paper, with the victim's probabilities in place of its labels; ``answers: labels`` is the
    paper's own thief.  The step keeps its sign (the paper's refinement of alternating it is left out).

    When a full doubling exceeds the budget, images to augment are chosen at random (the paper's
    reservoir sampling).

    Raises:
        UserError: more seeds than the thief has images.
    """
    images = thief.data.images[thief.choose(params.seeds, "seeds")]
    answers = oracle(images)
    network = thief.network(params.architecture)
    warmup = params.training.model_copy(update={"epochs": params.round_epochs})
    generator = thief.generator("reservoir")
    trained = 0
    for number in range(params.rounds):
        if not oracle.left:
            break
        early = replace(_counting_from(trained, thief), purpose=f"{thief.purpose}/round{number + 1}")
        early.fit(network, images, answers, warmup, params.temperature)
        trained += params.round_epochs
        chosen = torch.randperm(len(images), generator=generator)[: oracle.left]
        fresh = augmented(network, images[chosen], answers[chosen].argmax(1), params.step, thief.runtime)
        images, answers = torch.cat([images, fresh]), torch.cat([answers, oracle(fresh)])
    _counting_from(trained, thief).fit(network, images, answers, params.training, params.temperature)
    return network


def _counting_from(trained: int, thief: Thief) -> Thief:
    """The thief with the epochs of his training curve counted on from ``trained``."""
    return replace(thief, callback=lambda epoch, metrics: thief.callback(trained + epoch, metrics))


def augmented(network: Network, images: Tensor, labels: Tensor, step: float, runtime: Runtime) -> Tensor:
    """x + step * sign(dF(x)[label] / dx), clipped to valid pixels (equation 4 of the paper).

    F are the network's probabilities.  The sign is taken from their logarithm: it is the same, and
    does not vanish where the network is sure.

    Args:
        images: uint8 ``[N, C, H, W]``.
        labels: the victim's answer for each, int64 ``[N]``.
        step: on pixels in 0-1.

    Returns:
        uint8 ``[N, C, H, W]``, on the CPU.
    """
    network.eval()
    parts = []
    for part, label in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        x = to_float(part.to(runtime.device)).contiguous(memory_format=torch.channels_last).requires_grad_()
        with runtime.autocast():
            outputs = network(x)
        scores = outputs.float().log_softmax(1).gather(1, label.to(runtime.device)[:, None])
        (gradient,) = torch.autograd.grad(scores.sum(), x)
        parts.append(to_uint8(x.detach() + step * gradient.sign()).cpu())
    return torch.cat(parts)
