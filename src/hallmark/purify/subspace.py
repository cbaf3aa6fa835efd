"""What the feature-space baselines share: features by class, reasons, a plain way to say what was found."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hallmark import models
from hallmark.outliers import Array
from hallmark.purify.result import Findings, Material


def features_by_class(material: Material) -> Iterator[tuple[int, Tensor, Array]]:
    """Label, int64 rows ``[n]`` and the suspect's features, float64 ``[n, D]``, of each class there is."""
    features = models.features(material.suspect, material.data.images, material.runtime).double().numpy()
    for label in material.data.labels.unique().tolist():
        rows = (material.data.labels == label).nonzero()[:, 0]
        yield label, rows, features[rows.numpy()]


def simple_findings(flagged: Tensor, scores: Tensor, reason: str, **more: object) -> Findings:
    """Findings whose reason is ``reason`` for every flagged image."""
    words = ("nothing unusual", reason)
    return Findings(
        flagged=flagged,
        scores=scores.float(),
        reasons=tuple(words[k] for k in flagged.long().tolist()),
        **more,  # pyright: ignore[reportArgumentType]
    )


def top(scores: Tensor, count: int) -> Tensor:
    """bool ``[n]``: the ``count`` highest of float ``[n]``, the first ones among equals."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[torch.argsort(scores, descending=True, stable=True)[:count]] = True
    return chosen
