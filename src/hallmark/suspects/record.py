"""Answers as plain JSON, one object an image: the records of a transcript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hallmark.errors import UserError
from hallmark.suspects.answer import NO_CLASS, Answer, Top

MAX_TOP = 1 << 28
"""Top classes of all answers that are read at once."""
PARTS = ("label", "probabilities", "top")
"""Of an answer, the first always."""
LARGEST = 3.4e38
"""In single precision."""


def to_json(answer: Answer) -> dict[str, Any]:
    """One image's answer, whole: ``label``, and ``probabilities`` or ``top``."""
    value: dict[str, Any] = {"label": int(answer.labels[0])}
    if answer.probabilities is not None:
        value["probabilities"] = answer.probabilities[0].tolist()
    if answer.top is not None:
        value["top"] = [
            list(pair) for pair in zip(answer.top.classes[0].tolist(), answer.top.scores[0].tolist(), strict=True)
        ]
    return value


def from_json(values: Sequence[dict[str, Any]], classes: int, where: str, first: int = 0) -> Answer:
    """What :func:`to_json` made of consecutive images, checked.  What not all have, the whole has not either.

    Args:
        first: position of the first, for messages.

    Raises:
        UserError: not an answer on so many classes.
    """
    labels, soft, best, k = [], [], [], 0
    for position, value in enumerate(values, first):
        try:
            labels.append(_integer(value["label"], classes))
            if "probabilities" in value:
                soft.append([_number(v) for v in value["probabilities"]])
                if len(soft[-1]) != classes or not all(0 <= v <= 1 for v in soft[-1]):
                    raise ValueError("probabilities")
            if "top" in value:
                best.append([(_integer(label, classes), _number(score)) for label, score in value["top"]])
                k = max(k, len(best[-1]))
                if not best[-1] or k * len(values) > MAX_TOP:  # a long list would make all answers as long
                    raise ValueError("top")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{where}: answer {position:,}: not one ({type(error).__name__}: {error})") from None
    top = None
    if best and len(best) == len(values):
        padded = [[*row, *[(NO_CLASS, 0.0)] * (k - len(row))] for row in best]
        top = Top(
            torch.tensor([[label for label, _ in row] for row in padded]),
            torch.tensor([[score for _, score in row] for row in padded], dtype=torch.float32),
        )
    whole = bool(soft) and len(soft) == len(values)
    return Answer(torch.tensor(labels, dtype=torch.int64), torch.tensor(soft) if whole else None, top)


def _integer(value: Any, classes: int) -> int:
    if type(value) is not int or not NO_CLASS <= value < classes:
        raise ValueError(f"class {value!r:.40}")
    return value


def _number(value: Any) -> float:
    """A finite number, also in single precision."""
    if type(value) not in (int, float) or not abs(value) < LARGEST:
        raise ValueError(f"number {value!r:.40}")
    return float(value)
