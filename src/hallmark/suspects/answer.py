"""What every suspect shares: answers in our classes, the interface, the query budget."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.errors import UserError

NO_CLASS = -1
"""The label of an answer that is none of our classes; it equals no target and no true label."""


@dataclass(frozen=True)
class Top:
    """The likeliest classes, best first.

    Attributes:
        classes: int64 ``[N, k]``, our classes; :data:`NO_CLASS` where the suspect named fewer or none of ours.
        scores: float32 ``[N, k]``, as the suspect gave them; 0 where it named fewer.
    """

    classes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Answer:
    """What a suspect said of N images, in our classes, on the CPU.

    Attributes:
        labels: int64 ``[N]``, its first choice: 0 to K-1, or :data:`NO_CLASS`.
        probabilities: float32 ``[N, K]``, 0-1, if it gives scores of all its classes.  Rows add up to less
            than 1 where some of its classes are none of ours.
        top: if it gives the best few only.
    """

    labels: Tensor
    probabilities: Tensor | None = None
    top: Top | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: Tensor) -> Answer:
        """The answers of the images at these positions, int64 ``[M]``."""
        top = self.top and Top(self.top.classes[index], self.top.scores[index])
        soft = None if self.probabilities is None else self.probabilities[index]
        return Answer(self.labels[index], soft, top)

    def part(self, start: int, stop: int) -> Answer:
        """The answers of images ``start <= i < stop``."""
        top = self.top and Top(self.top.classes[start:stop], self.top.scores[start:stop])
        soft = None if self.probabilities is None else self.probabilities[start:stop]
        return Answer(self.labels[start:stop], soft, top)


def join(parts: Sequence[Answer]) -> Answer:
    """Answers of consecutive images as one.  What not all parts have, the whole has not either."""
    labels = torch.cat([part.labels for part in parts])
    soft = [part.probabilities for part in parts if part.probabilities is not None]
    tops = [part.top for part in parts if part.top is not None]
    top = None
    if len(tops) == len(parts):
        k = max(each.classes.shape[1] for each in tops)
        classes = [F.pad(each.classes, (0, k - each.classes.shape[1]), value=NO_CLASS) for each in tops]
        top = Top(torch.cat(classes), torch.cat([F.pad(each.scores, (0, k - each.scores.shape[1])) for each in tops]))
    return Answer(labels, torch.cat(soft) if len(soft) == len(parts) else None, top)


Arrived = Callable[[int, Answer], None]
"""Called with the position of the first image of a batch and the batch's answer, in any order."""


class Suspect(ABC):
    """A model that answers images, wherever it is."""

    budget: Budget | None = None
    """Of a suspect that is asked over a network."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What it is, as plain JSON types without secrets: goes into the transcript."""

    @abstractmethod
    def ask(self, images: Tensor, arrived: Arrived) -> None:
        """Put every image to the suspect once, and report each batch's answer as soon as it is there.

        Args:
            images: uint8 ``[N, C, H, W]``, in our size and channels.

        Raises:
            UserError: it does not answer, or what it answers is not sound.
        """

    def scores(self, images: Tensor) -> Answer:
        """The whole answer; arguments and errors as for :meth:`ask`."""
        parts: dict[int, Answer] = {}
        self.ask(images, parts.__setitem__)
        if not parts:
            raise ValueError("no images")
        return join([parts[start] for start in sorted(parts)])

    def predict(self, images: Tensor) -> Tensor:
        """int64 labels ``[N]``: the first choices."""
        return self.scores(images).labels


def unrecorded(count: int) -> None:
    """What is done with a number of images about to be sent, where nobody keeps it."""


class Budget:
    """Images that may be sent to a suspect in all; those sent again after a failure count again.

    A server may count, or charge for, a request whose answer never came; so does this.

    Args:
        limit: None is no limit.
        used: already sent, in an earlier process.
    """

    def __init__(self, limit: int | None, used: int = 0) -> None:
        self.limit, self.used = limit, used
        self.record: Callable[[int], None] = unrecorded
        """Called with a number of images just before they are sent."""
        self._lock = threading.Lock()

    def require(self, count: int) -> None:
        """Refuse before anything is sent what the budget cannot bear.

        Raises:
            UserError: fewer than ``count`` images are left.
        """
        if self.limit is not None and self.used + count > self.limit:
            raise UserError(
                f"query budget exceeded: {count:,} images to send, {self.limit - self.used:,} of {self.limit:,} left; "
                "raise the suspect's budget (images sent again after a failure count again)"
            )

    def spend(self, count: int) -> None:
        """Count images that are about to be sent.

        Raises:
            UserError: fewer are left; nothing is counted then, and nothing may be sent.
        """
        with self._lock:
            self.require(count)
            self.record(count)
            self.used += count
