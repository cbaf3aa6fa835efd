"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images, 32x32, 100 classes."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR100

from hallmark.config import PrepareData
from hallmark.data.sources import Source
from hallmark.data.sources._torchvision import load_cifar

READS: frozenset[str] = frozenset()


def load(config: PrepareData, raw: Path) -> Source:
    """Read it from ``raw``, where torchvision puts it if it is not there."""
    return load_cifar(CIFAR100, config, raw)
