"""Activation clustering (Chen et al. 2018) over logged queries: a class whose answers come from two kinds of images.

The queries and the trusted images that are answered with a class are clustered together; a cluster of which the trusted
images have much less than their share is refused.  The evidence against a class is the difference of the two shares.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from threadpoolctl import threadpool_limits

from hallmark.config import Params as _Params
from hallmark.detection.finding import Finding
from hallmark.detection.queries._log import Log
from hallmark.outliers import two_clusters
from hallmark.runtime import derive_seed


class Params(_Params):
    """Block ``activation_clustering``."""

    components: Annotated[int, Field(ge=1, le=256)] = 2
    """The paper's 10 are for thousands of images a class: of hundreds, whitening brings up the noise."""
    difference: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """A cluster that holds so much more of the queries than of the trusted images is refused."""
    least: Annotated[int, Field(ge=2)] = 10
    """Classes with fewer queries or trusted images are left alone."""


def detect(log: Log, params: Params) -> Finding:
    """Refuse the queries in clusters that honest ones hardly ever fall into; the score is the greatest difference."""
    flagged = torch.zeros(len(log.images), dtype=torch.bool)
    items = torch.zeros(len(log.images), dtype=torch.float64)
    classes = torch.full((len(log.trusted.classes),), torch.nan, dtype=torch.float64)
    for label, asked, known in log.by_class(params.least):
        features = np.concatenate([log.answers[0][asked].double().numpy(), log.usual[0][known].double().numpy()])
        if np.ptp(features, 0).max() == 0:
            continue
        with threadpool_limits(1):
            seed = derive_seed(log.runtime.seed, f"detection/activation_clustering {label}")
            cluster = torch.from_numpy(two_clusters(features, params.components, seed)[1])
        own, trusted = cluster[: len(asked)], cluster[len(asked) :]
        excess = float(own.double().mean() - trusted.double().mean())
        strange = own if excess > 0 else ~own
        classes[label] = abs(excess)
        items[asked] = torch.where(strange, abs(excess), -abs(excess)).double()
        flagged[asked] = strange & (abs(excess) > params.difference)
    score = float(classes.nan_to_num(0.0).max())
    return Finding(score, classes, params.difference if score else math.nan, items, flagged)
