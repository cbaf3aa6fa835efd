"""Does a suspect answer the same question the same way?  One that answers at random, or by turns, does not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark.suspects.answer import Answer, Suspect


@dataclass(frozen=True)
class Consistency:
    """How often a second answer differs from the first.

    Attributes:
        repeated: images asked twice.
        different: of them, those whose label changed.
        largest: the largest change of a probability, 0-1; None without probabilities.
    """

    repeated: int
    different: int
    largest: float | None

    @property
    def share(self) -> float:
        """Share of the repeated images whose label changed, 0-1."""
        return self.different / self.repeated


def ask_twice(suspect: Suspect, images: Tensor, share: float, generator: torch.Generator) -> tuple[Answer, Consistency]:
    """Ask all images, then a random share of them again in another order: see :func:`ask_again`."""
    first = suspect.scores(images)
    return first, ask_again(suspect, images, first, share, generator)


def ask_again(suspect: Suspect, images: Tensor, first: Answer, share: float, generator: torch.Generator) -> Consistency:
    """Ask a random share of images a second time, in another order.

    A server that remembers what it was asked can hide from this, as one can that is random only between days.

    Args:
        images: uint8 ``[N, C, H, W]``.
        first: what was answered to them.
        share: of the images that are asked again, 0-1; at least one is.
    """
    count = max(1, round(share * len(images)))
    index = torch.randperm(len(images), generator=generator)[:count]
    second = suspect.scores(images[index])
    largest = None
    if first.probabilities is not None and second.probabilities is not None:
        largest = float((first.probabilities[index] - second.probabilities).abs().max())
    return Consistency(count, int((first.labels[index] != second.labels).sum()), largest)
