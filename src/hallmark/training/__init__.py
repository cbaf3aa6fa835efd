"""The one training loop and what feeds it."""

from hallmark.training.classifier import accuracy, train_classifier
from hallmark.training.loop import Combine, EpochCallback, Losses, fit, no_callback, weighted_sum

__all__ = [
    "Combine",
    "EpochCallback",
    "Losses",
    "accuracy",
    "fit",
    "no_callback",
    "train_classifier",
    "weighted_sum",
]
