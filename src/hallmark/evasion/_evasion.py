"""What all evasions share: what the thief has, the wrapper around a suspect, the search for a strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hallmark.diffusion.model import DiffusionModel
from hallmark.runtime import Runtime
from hallmark.suspects import Answer, Suspect
from hallmark.suspects.answer import Arrived


@dataclass(frozen=True)
class Means:
    """What the thief has.

    Attributes:
        images: his own images, uint8 ``[N, C, H, W]``.
        diffusion: a diffusion model of such images; None: none.
        generator: of all his random draws; a query that is repeated gets other ones.
    """

    images: Tensor
    runtime: Runtime
    generator: torch.Generator
    diffusion: DiffusionModel | None = None


def _same(images: Tensor) -> Tensor:
    return images


def _as_given(answer: Answer, images: Tensor) -> Answer:
    return answer


@dataclass(frozen=True)
class Evasion:
    """What is done on the way.

    Attributes:
        queries: from the images asked to those that the model sees, uint8 ``[N, C, H, W]`` both.
        answers: from the model's answer, and the images asked, to what is told.
    """

    queries: Callable[[Tensor], Tensor] = field(default=_same)
    answers: Callable[[Answer, Tensor], Answer] = field(default=_as_given)


@dataclass(frozen=True)
class Range:
    """Strengths of an evasion: ``low`` does next to nothing, ``high`` ruins the service; ``whole``: integers only."""

    low: float
    high: float
    whole: bool = False


class Evading(Suspect):
    """A suspect behind an evasion.

    Args:
        suspect: the model.
        evasion: made by a module's ``prepare``.
    """

    def __init__(self, suspect: Suspect, evasion: Evasion) -> None:
        self._suspect, self._evasion, self.budget = suspect, evasion, suspect.budget

    def describe(self) -> dict[str, Any]:
        return self._suspect.describe()

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        """All images are altered in their order before the model sees any, so that draws do not depend on batches."""
        answer = self._suspect.scores(self._evasion.queries(images))
        arrived(0, self._evasion.answers(answer, images))


def strength_at_cost(accuracy: Callable[[float], float], reach: Range, floor: float, steps: int = 7) -> float:
    """The greatest strength found whose accuracy is not below ``floor``, by bisection.

    Accuracy is taken to fall with strength.  An evasion that costs less at its strongest is used at its strongest; one
    that costs more at its weakest is used at its weakest.

    Args:
        accuracy: of the service at a strength, 0-1, on images that decide nothing else.
        steps: halvings; of whole strengths as many as it takes.
    """
    if accuracy(reach.high) >= floor:
        return reach.high
    low, high = reach.low, reach.high
    for _ in range(steps):
        middle = float(round((low + high) / 2)) if reach.whole else (low + high) / 2
        if middle in (low, high):
            break
        if accuracy(middle) >= floor:
            low = middle
        else:
            high = middle
    return low
