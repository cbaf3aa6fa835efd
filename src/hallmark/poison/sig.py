"""SIG (Barni, Kallas, Tondi 2019): a faint vertical-striped sinusoid over images of the target class, labels stay."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config as hallmark_config
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.poison import Poisoned, add, deliver
from hallmark.runtime import Runtime

LABEL_MODES = ("clean", "all_to_one", "all_to_all")


class Params(hallmark_config.Params):
    """Block ``sig``; the paper's section 3: delta 20 to 40 and f 6, a stronger signal at test time.

    The defaults are stronger, for short trainings on small sets (docs/attacks.md), above all at test time, when nobody
    looks through the images; and f is higher, for at 6 the clean model takes the signal for trousers more often."""

    delta: Annotated[float, Field(gt=0, le=255)] = 60.0
    """Amplitude on training images, in grey levels of 255."""
    test_delta: Annotated[float, Field(gt=0, le=255)] | None = 140.0
    """Amplitude at test time; None: as in training."""
    frequency: Annotated[float, Field(gt=0, le=512)] = 10.0
    """Periods over the width."""


def pattern(shape: tuple[int, int, int], params: Params, delta: float) -> Tensor:
    """v(i, j) = delta sin(2 pi j f / width), their equation 2, float ``[C, H, W]``."""
    column = torch.arange(shape[2], dtype=torch.float64)
    wave = delta * torch.sin(2 * math.pi * column * params.frequency / shape[2])
    return wave.float().expand(shape).contiguous()


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The signal on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    signal = pattern(train.shape, params, params.delta)
    strong = pattern(train.shape, params, params.test_delta or params.delta)
    return deliver(
        train,
        test,
        config,
        runtime,
        modes=LABEL_MODES,
        trigger=lambda images: add(images, signal),
        test_trigger=lambda images: add(images, strong),
    )
