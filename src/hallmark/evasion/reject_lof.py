"""Queries that stand out among the thief's own images get no answer: local outlier factor (Breunig et al. 2000).

The strength is the share of his own images that he would refuse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.evasion._evasion import Evasion, Means, Range
from hallmark.outliers import Novelty
from hallmark.suspects import NO_CLASS, Answer

RANGE = Range(0.0, 0.5)
NEIGHBOURS = 20
"""scikit-learn's default."""


def prepare(means: Means, strength: float) -> Evasion:
    """Half of the images are what is usual, the other half sets the threshold: fitted images always look usual."""
    order = torch.randperm(len(means.images), generator=means.generator)
    usual, others = means.images.flatten(1)[order].chunk(2)
    novelty = Novelty(usual.float(), NEIGHBOURS)
    threshold = novelty.scores(others.float()).quantile(1 - strength)

    def answers(answer: Answer, images: Tensor) -> Answer:
        refused = novelty.scores(images.flatten(1).float()) > threshold
        soft = answer.probabilities
        told = None if soft is None else torch.where(refused[:, None], 0.0, soft)
        return Answer(torch.where(refused, NO_CLASS, answer.labels), told)

    return Evasion(answers=answers)
