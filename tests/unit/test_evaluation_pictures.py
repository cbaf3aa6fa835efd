"""The picture of poisoned images that were restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from hallmark import evaluation_pictures
from hallmark.data.dataset import ImageDataset
from hallmark.evaluation import Detection
from tests.unit.conftest import toy_images


def detection(data: ImageDataset, poisoned: Sequence[int], flagged: Sequence[int]) -> Detection:
    ids = np.sort(data.ids.numpy())
    return Detection(ids, np.isin(ids, flagged), np.isin(ids, poisoned))


def test_rows_show_the_same_images_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = toy_images(30)
    received = replace(clean, images=clean.images // 2, labels=torch.zeros_like(clean.labels))
    # 4 was dropped, 5 was missed, 6 was flagged wrongly.
    left = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    purified = replace(clean, images=clean.images // 4).subset(left[left != 4])
    found = detection(clean, [2, 4, 5, 9], [2, 4, 6, 9])
    seen: list[Tensor] = []

    def grid(rows: Sequence[tuple[str, Tensor]], title: str, captions: Sequence[Sequence[str]]) -> None:
        assert [name for name, _ in rows] == ["original", "poisoned", "purified"]
        assert captions[1] == [clean.classes[0]] * 2
        assert captions[0] == captions[2] == [clean.classes[clean.labels[i]] for i in (2, 9)]
        seen.extend(images for _, images in rows)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_pictures.plots, "image_grid", grid)
        evaluation_pictures.journey(clean, received.subset(left), purified, found)
    for images, divisor in zip(seen, (1, 2, 4), strict=True):
        assert torch.equal(images, clean.images[[2, 9]] // divisor)
    figure = evaluation_pictures.journey(clean, received, purified, found)["restored_poisons"]
    assert len(figure.axes) == 6
    plt.close(figure)


def test_at_most_twelve_and_none_without_any() -> None:
    clean = toy_images(30)
    everything = list(range(30))
    figure = evaluation_pictures.journey(clean, clean, clean, detection(clean, everything, everything))[
        "restored_poisons"
    ]
    assert len(figure.axes) == 3 * evaluation_pictures.SHOWN
    plt.close(figure)
    assert evaluation_pictures.journey(clean, clean, clean, detection(clean, [], everything)) == {}
