"""Local outlier factor (Breunig, Kriegel, Ng, Sander 2000) of queries among the owner's images, scikit-learn's.

MEA-Defender's authors try it on watermark queries.  Half of the trusted images are what is usual; the other half sets
the threshold, for the factor of a point that it was fitted on says nothing about new ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from hallmark.config import Count
from hallmark.config import Params as _Params
from hallmark.detection.finding import Finding
from hallmark.detection.queries._log import Log
from hallmark.outliers import Novelty


class Params(_Params):
    """Block ``lof``."""

    space: Literal["inputs", "features"] = "inputs"
    """Where distances are measured: between pixels, or the model's penultimate features."""
    neighbours: Count = 20
    """scikit-learn's default."""
    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Share of honest queries that are refused."""


def detect(log: Log, params: Params) -> Finding:
    """Refuse the queries that are stranger than all but ``false_alarm`` of honest ones."""

    def points(images: Tensor, features: Tensor) -> Tensor:
        return images.flatten(1).float() if params.space == "inputs" else features

    usual = points(log.trusted.images, log.usual[0])
    novelty = Novelty(usual[log.halves[0]], params.neighbours)
    threshold = novelty.scores(usual[log.halves[1]]).quantile(1 - params.false_alarm)
    scores = novelty.scores(points(log.images, log.answers[0]))
    return log.refused(scores, scores > threshold)
