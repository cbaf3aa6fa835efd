"""scikit-learn's 1,797 handwritten digits, 8x8 grey: small enough for tests, needs no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from hallmark.config import PrepareData
from hallmark.data.dataset import ImageDataset
from hallmark.data.decode import conform
from hallmark.data.sources import Source

READS: frozenset[str] = frozenset()


def load(config: PrepareData, raw: Path) -> Source:
    """All digits; values 0-16 become 0-255.  There is no test part: it is drawn from the whole."""
    digits = load_digits()
    grey = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]  # pyright: ignore
    labels = torch.from_numpy(digits.target).long()  # pyright: ignore[reportAttributeAccessIssue]
    content = hashlib.sha256(grey.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    images = conform(grey, config.size, config.channels)
    return Source(
        ImageDataset(images, labels, torch.arange(len(labels)), tuple("0123456789")), None, {"digits": content}
    )
