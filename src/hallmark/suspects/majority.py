"""A suspect whose answers are chance is asked several times, and what it says most often counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hallmark.suspects.answer import NO_CLASS, Answer, Arrived, Suspect

TOGETHER = 1024
"""Images that are asked once before any of them is asked again: an answer is kept when the last of its rounds is in."""


class Majority(Suspect):
    """Another suspect, asked every image ``times`` times.

    Where somebody adds noise to queries or answers, it answers, up to what is undecided between two classes, as the
    model behind the noise does.  A server that remembers its answers gains nothing and loses
    nothing by it.
    """

    def __init__(self, suspect: Suspect, times: int) -> None:
        self.suspect, self.times = suspect, times
        self.budget = suspect.budget
        self.classes = getattr(suspect, "classes", None)

    def describe(self) -> dict[str, Any]:
        return self.suspect.describe()

    def ask(self, images: Tensor, arrived: Arrived) -> None:
        if self.budget is not None:
            self.budget.require(self.times * len(images))
        for start in range(0, len(images), TOGETHER):
            part = images[start : start + TOGETHER]
            arrived(start, vote([self.suspect.scores(part) for _ in range(self.times)]))


def vote(rounds: list[Answer]) -> Answer:
    """The label that an image got more often than any other, else none of our classes: whatever a tie were broken by,
    number or order, would favour some classes, and with them a key's target or its controls.

    With probabilities in every round, their mean as well.  The best few are not kept: of other classes each time they
    have no mean.
    """
    labels = torch.stack([each.labels for each in rounds])
    votes = torch.stack([(labels == each).sum(0) for each in labels])  # of each round's label, [times, N]
    winning = votes == votes.max(0).values
    smallest = labels.where(winning, labels.max()).min(0).values
    largest = labels.where(winning, labels.min()).max(0).values
    soft = [each.probabilities for each in rounds if each.probabilities is not None]
    mean = torch.stack(soft).mean(0) if len(soft) == len(rounds) else None
    return Answer(torch.where(smallest == largest, smallest, NO_CLASS), mean)
