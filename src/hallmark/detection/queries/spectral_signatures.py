"""Spectral signatures (Tran, Li, Madry 2018) over logged queries: what stands out along a class's strongest direction.

Their method removes a fixed share of a training set.  Of a log nobody knows the share: a query is refused if it lies
further out along the direction of the queries answered with its class than ``false_alarm`` of the trusted images do.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from hallmark.config import Params as _Params
from hallmark.detection.finding import Finding
from hallmark.detection.queries._log import Log
from hallmark.outliers import spectral_scores


class Params(_Params):
    """Block ``spectral_signatures``."""

    false_alarm: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """Share of honest queries that are refused."""
    least: Annotated[int, Field(ge=2)] = 10
    """Classes with fewer queries or trusted images are left alone."""


def detect(log: Log, params: Params) -> Finding:
    """Refuse the queries that stand out in their class."""
    scores = torch.zeros(len(log.images), dtype=torch.float64)
    flagged = torch.zeros(len(log.images), dtype=torch.bool)
    for _, asked, known in log.by_class(params.least):
        features = np.concatenate([log.answers[0][asked].double().numpy(), log.usual[0][known].double().numpy()])
        both = torch.from_numpy(spectral_scores(features))
        own, trusted = both[: len(asked)], both[len(asked) :]
        scores[asked] = own / trusted.mean().clamp_min(1e-12)
        flagged[asked] = own > trusted.quantile(1 - params.false_alarm)
    return log.refused(scores, flagged)
