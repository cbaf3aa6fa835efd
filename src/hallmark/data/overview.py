"""Pictures of a prepared data set: class balance, one sample a class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from hallmark import plots
from hallmark.data.dataset import ImageDataset

_COLUMNS, _MAX_CLASSES = 10, 100


def class_balance(sets: Mapping[str, ImageDataset]) -> Figure:
    """Each class's share of each split."""
    classes = next(iter(sets.values())).classes
    counts = {name: torch.bincount(data.labels, minlength=len(classes)).tolist() for name, data in sets.items()}
    return plots.class_shares(counts, classes, "class balance")


def samples(sets: Mapping[str, ImageDataset]) -> Figure:
    """One image a class: of every split for up to ten classes, else of ``train``, for the first hundred."""
    classes = sets["train"].classes[:_MAX_CLASSES]
    if len(classes) <= _COLUMNS:
        rows = [(name, _one_a_class(data, len(classes))) for name, data in sets.items()]
        return plots.image_grid(rows, captions=[classes] * len(rows))
    images = _one_a_class(sets["train"], len(classes))
    rows = [("train" if k == 0 else "", part) for k, part in enumerate(images.split(_COLUMNS))]
    captions = [classes[start : start + _COLUMNS] for start in range(0, len(classes), _COLUMNS)]
    return plots.image_grid(rows, captions=captions)


def _one_a_class(data: ImageDataset, count: int) -> Tensor:
    return torch.stack([data.of_class(label)[0] for label in range(count)])
