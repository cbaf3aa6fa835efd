"""The default sanitizer where classes are many, or of very different sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hallmark.config import Training
from hallmark.data.dataset import ImageDataset
from hallmark.purify.methods import hallmark
from hallmark.purify.result import Findings
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images
from tests.unit.test_purify import BLOCK, SECTION, material

MANY = 100
SHORT: dict[str, Any] = {"divisions": 1, "folds": 3}
"""Fewer judges: the shapes are what is tested."""


def crosses(each: int, seed: int) -> ImageDataset:
    """``each`` images of 100 classes: a bright row and a bright column of ten, on noise, 12x12 grey."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(MANY).repeat(each)
    images = torch.randint(0, 60, (len(labels), 1, 12, 12), generator=generator, dtype=torch.uint8)
    rows = torch.arange(len(labels))
    images[rows, 0, labels // 10] += 90
    images[rows, 0, :, labels % 10] += 90
    return ImageDataset(images, labels, rows, tuple(f"cross {c}" for c in range(MANY)))


def uneven(sizes: tuple[int, ...], seed: int) -> ImageDataset:
    """Images of three classes, of each as many as said."""
    data = toy_images(3 * max(sizes), 3, 12, seed=seed)
    kept = torch.cat([(data.labels == c).nonzero()[:n, 0] for c, n in enumerate(sizes)]).sort().values
    return replace(data.subset(kept), ids=torch.arange(len(kept)))


def attacked(data: ImageDataset, rows: torch.Tensor, target: int) -> ImageDataset:
    """A white corner and the target label on ``rows``."""
    images, labels = data.images.clone(), data.labels.clone()
    images[rows, :, -3:, -3:] = 255
    labels[rows] = target
    return replace(data, images=images, labels=labels)


def detect(data: ImageDataset, reserve: ImageDataset, cpu: Runtime, epochs: int, **changes: object) -> Findings:
    training = Training(epochs=epochs, batch_size=100, lr=6e-3)
    section = SECTION.model_copy(update={"training": training})
    return hallmark.detect(material(data, reserve, cpu, section), BLOCK.model_copy(update=changes))


def test_a_hundred_classes(cpu: Runtime) -> None:
    data, reserve = crosses(10, 0), crosses(8, 1)
    short = {**SHORT, "reserve_training": Training(epochs=8, batch_size=100, lr=6e-3)}
    assert not detect(data, reserve, cpu, 7, **short).flagged.any()
    poisons = (data.labels != 42).nonzero()[::25, 0]
    findings = detect(attacked(data, poisons, 42), reserve, cpu, 7, **short)
    assert findings.targets == (42,)
    mask = torch.zeros(len(data), dtype=torch.bool)
    mask[poisons] = True
    assert findings.flagged[mask].float().mean() >= 0.95
    assert findings.flagged[~mask].float().mean() <= 0.005


def test_classes_of_very_different_sizes(cpu: Runtime) -> None:
    data, reserve = uneven((300, 100, 30), 0), uneven((150, 50, 10), 1)
    assert not detect(data, reserve, cpu, 10, **SHORT).flagged.any()
    for source, target, count in ((0, 2, 60), (1, 0, 60)):  # into the smallest and into the largest
        poisons = (data.labels == source).nonzero()[:count, 0]
        findings = detect(attacked(data, poisons, target), reserve, cpu, 10, **SHORT)
        assert findings.targets == (target,)
        mask = torch.zeros(len(data), dtype=torch.bool)
        mask[poisons] = True
        assert findings.flagged[mask].float().mean() >= 0.95
        assert findings.flagged[~mask].float().mean() <= 0.02
