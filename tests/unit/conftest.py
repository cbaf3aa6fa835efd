"""What unit tests share: a CPU runtime, and toy images that a small network learns in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from hallmark import runtime
from hallmark.config import RuntimeConfig, VerifyOwnership
from hallmark.data.dataset import ImageDataset


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALLMARK_TRACKING", "off")


@pytest.fixture
def cpu() -> runtime.Runtime:
    """One thread, single precision, seed 0."""
    return runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))


def toy_images(count: int, classes: int = 3, size: int = 8, channels: int = 1, seed: int = 0) -> ImageDataset:
    """Noise with a bright horizontal band whose place tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 80, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    band = size // classes
    for label in range(classes):
        images[labels == label, :, label * band : (label + 1) * band] += 120
    return ImageDataset(images, labels, torch.arange(count), tuple(f"band {c}" for c in range(classes)))


@pytest.fixture
def toy() -> ImageDataset:
    """90 images of 3 classes, 8x8 grey."""
    return toy_images(90)


def decision_rule(
    *, decoys: int, judge_seed: int, statistics: Sequence[str] = ("hits", "runner_up")
) -> VerifyOwnership:
    """The decision rule of tests."""
    return VerifyOwnership(
        queries=1000,
        decoys=decoys,
        judge_seed=judge_seed,
        confidence=0.95,
        alpha=0.01,
        keys=1,
        statistics=list(statistics),  # pyright: ignore[reportArgumentType] - checked when it is made
        min_accuracy_share=0.8,
        max_inconsistent=0.02,
        suspects={},
    )
