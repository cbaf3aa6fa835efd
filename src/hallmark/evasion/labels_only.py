"""Only the first choice is told.  There is no strength."""

from __future__ import annotations

from torch import Tensor

from hallmark.evasion._evasion import Evasion, Means, Range
from hallmark.suspects import Answer

RANGE = Range(1.0, 1.0)


def prepare(means: Means, strength: float) -> Evasion:
    """Scores are kept back."""

    def answers(answer: Answer, images: Tensor) -> Answer:
        return Answer(answer.labels)

    return Evasion(answers=answers)
