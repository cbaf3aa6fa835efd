"""No attack: the user's own data passes through as it is, and nobody knows what is poisoned in it."""

from __future__ import annotations

from hallmark import config as hallmark_config
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.poison import Poisoned
from hallmark.runtime import Runtime

LABEL_MODES = ("none",)


class Params(hallmark_config.Params):
    """No parameters."""


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """``train`` itself, without ground truth and without triggered images."""
    return Poisoned(train, None, None)
