"""Probabilities are rounded to multiples of a step, which is the strength; of equal ones the first class is told."""

from __future__ import annotations

from torch import Tensor

from hallmark.evasion._evasion import Evasion, Means, Range
from hallmark.suspects import Answer

RANGE = Range(0.001, 0.9)


def prepare(means: Means, strength: float) -> Evasion:
    """A suspect that gives labels only has nothing to round."""

    def answers(answer: Answer, images: Tensor) -> Answer:
        if answer.probabilities is None:
            return answer
        soft = (answer.probabilities / strength).round() * strength
        # It tells its first choice from what it shows: two classes that are rounded to the same cannot be told apart.
        return Answer(soft.argmax(1), soft.clamp_max(1.0))

    return Evasion(answers=answers)
