"""What is asked of each model: watermark queries, the same images unmixed, other mixtures, the main task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hallmark.data.dataset import ImageDataset
from hallmark.runtime import derive_seed
from hallmark.statistics import Bools
from hallmark.watermark.key import Key
from hallmark.watermark.samples import Pairs, draw_evasion, draw_queries

Predict = Callable[[Tensor], Tensor]
"""A suspect: uint8 images ``[N, C, H, W]`` to int64 labels ``[N]``.  In memory or behind an API."""


@dataclass(frozen=True)
class Questions:
    """The images put to every model, the same for all, so that answers can be compared in pairs.

    Attributes:
        watermark: watermark samples and their two unmixed sources.
        evasion: the same classes mixed in every *other* way; calling them the target is a false positive.
        task: held-out images of the main task.
    """

    key: Key
    watermark: Pairs
    evasion: Pairs
    task: ImageDataset


@dataclass(frozen=True)
class Answers:
    """One model's outcomes, one bool a question.

    Attributes:
        hits: watermark sample called the target, ``[N]``.
        unmixed_hits: either of its two source images, unmixed, called the target, ``[N]``.
        false_positives: otherwise mixed sample called the target, ``[M]``.
        correct: main-task image called what it is, ``[T]``.
        plain: source-class image called the target, ``[2N]``.
    """

    hits: Bools
    unmixed_hits: Bools
    false_positives: Bools
    correct: Bools
    plain: Bools


def prepare(key: Key, held_out: ImageDataset, queries: int) -> Questions:
    """Draw fresh questions from images that no model was trained on, by the key's own seed.

    Args:
        queries: number of watermark queries, and of other mixtures.

    Raises:
        UserError: too few images of a source class.
    """
    generator = torch.Generator().manual_seed(derive_seed(key.seed, "verify_ownership/questions"))
    return Questions(
        key,
        draw_queries(key, held_out, queries, generator),
        draw_evasion(key, held_out, queries, generator)[0],
        held_out,
    )


def ask(questions: Questions, predict: Predict) -> Answers:
    """Put all questions to one model."""
    target = questions.key.target

    def fires(images: Tensor) -> Bools:
        return (predict(images) == target).numpy()

    first, second = fires(questions.watermark.first), fires(questions.watermark.second)
    return Answers(
        hits=fires(questions.watermark.mixed),
        unmixed_hits=first | second,
        false_positives=fires(questions.evasion.mixed),
        correct=(predict(questions.task.images) == questions.task.labels).numpy(),
        plain=np.concatenate([first, second]),
    )
