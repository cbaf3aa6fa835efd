"""What every detector says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """The evidence of one detector about one model, or one log of queries.

    Attributes:
        score: of the whole, higher is more suspicious; what :mod:`hallmark.detection.calibration` makes a decision of.
        classes: float64 ``[K]``, the evidence against each class, NaN where there is none.
        usual: the score from which the paper speaks of an attack; NaN where it names none.
        items: float64 ``[N]``, the evidence against each query; None of a detector of models.
        flagged: bool ``[N]``, the queries that the detector would refuse; None of a detector of models.
        pictures: reversed triggers, uint8 ``[K, C, H, W]``, as they lie on black; None if it makes none.
        metrics: whatever else was measured.
    """

    score: float
    classes: Tensor
    usual: float
    items: Tensor | None = None
    flagged: Tensor | None = None
    pictures: Tensor | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
