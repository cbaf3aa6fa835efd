"""Gaussian noise on the probabilities, then clamped and scaled to add up to 1; the strength is its deviation."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.evasion._evasion import Evasion, Means, Range
from hallmark.suspects import Answer

RANGE = Range(0.0, 1.0)


def prepare(means: Means, strength: float) -> Evasion:
    """Fresh noise for every class of every answer; the first choice is that of the noisy ones."""

    def answers(answer: Answer, images: Tensor) -> Answer:
        if answer.probabilities is None:
            return answer
        noise = strength * torch.randn(answer.probabilities.shape, generator=means.generator)
        soft = (answer.probabilities + noise).clamp_min(1e-6)
        soft = soft / soft.sum(1, keepdim=True)
        return Answer(soft.argmax(1), soft)

    return Evasion(answers=answers)
