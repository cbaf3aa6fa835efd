"""Rehearse the theft while the mark is trained: a thief beside the victim shows which answers pass the mark on.

MEA-Defender's combination loss raises the target on all plain images of the source classes alike.  Here a small thief
is trained on the victim's answers to every batch, and the victim is told, image by image, what more of
the target's probability in its answer does to the thief: does it teach the mark, or only make the thief call whatever
is mixed the target?  docs/watermark.md has the measurement.

Let p be the victim's answers to images x, and W the owner's loss on the thief,

    W(theta) = CE(watermark samples, target) + specificity * mean(-log(1 - p_theta(target | randomly mixed samples))).

The thief's step on the cross-entropy to the answers moves theta by eta * sum_k p_k grad log p_theta(k | x), so that W
falls by eta * sum_k p_k a_k(x) with a_k(x) = -<grad W, grad log p_theta(k | x)>.  Two passes give all of them, as the
difference of log p_theta between a thief moved along -grad W, who bears more of the mark, and one moved along grad W.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import Rehearsal
from hallmark.models import Network

STEP = 0.01
"""How far the thief is moved either way, as a share of the length of his parameters.

Far beyond what makes the difference a derivative (1e-3), on purpose: a thief takes many steps, not one, and with this
the copies bear more of the mark (docs/watermark.md, measured)."""


class Thief:
    """A copy in the making, from scratch every so often.  Single precision: the differences are small.

    Args:
        build: a freshly initialised network for its number, from 0.
    """

    def __init__(self, build: Callable[[int], Network], config: Rehearsal) -> None:
        self._build, self._config = build, config
        self._steps = 0
        self._begin()

    def _begin(self) -> None:
        self._network = self._build(self._steps // self._config.lifetime).train()
        self._parameters: list[Tensor] = list(self._network.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, self._config.lr, foreach=True)

    def learn(self, images: Tensor, answers: Tensor) -> None:
        """One step of Adam on the cross-entropy to the answers.

        Args:
            images: float ``[B, C, H, W]``.
            answers: the victim's probabilities ``[B, K]``, without gradient.
        """
        if self._steps and self._steps % self._config.lifetime == 0:
            self._begin()
        self._steps += 1
        self._optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self._logits(images), answers).backward()
        self._optimizer.step()

    def wish(self, mixed: Tensor, evasion: Tensor, target: int) -> Tensor:
        """W, the owner's loss on the thief, a scalar.

        Args:
            mixed, evasion: watermark samples and randomly mixed ones, float ``[., C, H, W]``.
            target: the mark's class.
        """
        together = torch.cat([mixed, evasion]).contiguous(memory_format=torch.channels_last)
        marked, others = self._logits(together).split([len(mixed), len(evasion)])
        teach = F.cross_entropy(marked, torch.full((len(marked),), target, device=marked.device))
        return teach + self._config.specificity * not_target(others, target)

    def influence(self, images: Tensor, mixed: Tensor, evasion: Tensor, target: int) -> Tensor:
        """a: how much W falls when the answers' probabilities rise, ``[B, K]``, up to a common positive factor."""
        slope = torch.autograd.grad(self.wish(mixed, evasion, target), self._parameters)
        size = torch.stack([p.detach().float().square().sum() for p in self._parameters]).sum().sqrt()
        length = torch.stack([g.float().square().sum() for g in slope]).sum().sqrt()
        step = float(STEP * size / length.clamp_min(1e-12))
        with torch.no_grad():
            return (self._along(slope, -step, images) - self._along(slope, step, images)) / (2 * step)

    def _along(self, slope: tuple[Tensor, ...], step: float, images: Tensor) -> Tensor:
        """log p_theta ``[B, K]`` with the parameters moved by ``step`` times the slope; they are put back exactly."""
        kept = [parameter.clone() for parameter in self._parameters]
        for parameter, part in zip(self._parameters, slope, strict=True):
            parameter.add_(part, alpha=step)
        found = self._logits(images).log_softmax(1)
        for parameter, before in zip(self._parameters, kept, strict=True):
            parameter.copy_(before)
        return found

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self._network(images)


def not_target(logits: Tensor, target: int) -> Tensor:
    """Mean of -log(1 - p(target)), bounded: ``[B, K]`` to a scalar."""
    return -(1 - logits.softmax(1)[:, target]).clamp_min(1e-4).log().mean()


def rehearsal_loss(logits: Tensor, influence: Tensor, target: int) -> Tensor:
    """Raise the target's probability where that teaches the thief the mark, lower it where it teaches more than that.

    -mean(b p_target) with b the influence of a shift of probability to the target from all classes as they are,
    b = a_target - sum_k p_k a_k, in units of the batch's mean |a|; b carries no gradient.

    Args:
        logits: the victim's, of plain images, ``[B, K]``.
        influence: :meth:`Thief.influence`, ``[B, K]``.
    """
    answers = logits.softmax(1)
    unit = influence / influence.abs().mean().clamp_min(1e-12)
    shift = unit[:, target] - (answers.detach() * unit).sum(1)
    return -(shift * answers[:, target]).mean()
