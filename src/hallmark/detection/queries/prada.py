"""PRADA (Juuti, Szyller, Marchal, Asokan, EuroS&P 2019): somebody asks in order to steal.

The distances of each query to the nearest earlier one with the same answer are about normally distributed for honest
users, and are not for thieves who make queries out of one another.  The score is 1 - W of Shapiro and Wilk's test over
all distances within three deviations of their mean; the paper says theft where W falls below 0.95 (its delta).

The paper keeps of each class only queries far enough from those kept; here all are kept, so that all distances are
found in batches.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from scipy import stats
from torch import Tensor

from hallmark.config import Params as _Params
from hallmark.detection.finding import Finding
from hallmark.detection.queries._log import Log

MOST = 5000
"""Distances that the test's p-value and W are known for; of more, evenly spaced ones are taken."""


class Params(_Params):
    """Block ``prada``."""

    delta: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """The paper's, of W."""
    least: Annotated[int, Field(ge=3)] = 100
    """Of fewer distances nothing is said: the paper waits for 100 queries."""


def nearest_earlier(images: Tensor, labels: Tensor) -> Tensor:
    """Euclidean distance (pixels 0-1) to the nearest earlier query with the same label; NaN for the first of each.

    Args:
        images: uint8 ``[N, C, H, W]`` in the order in which they were asked.
        labels: int64 ``[N]``.

    Returns:
        float64 ``[N]``.
    """
    found = torch.full((len(images),), torch.nan, dtype=torch.float64)
    flat = images.flatten(1).double() / 255
    for label in labels.unique().tolist():
        place = (labels == label).nonzero()[:, 0]
        for rows in torch.arange(1, len(place)).split(500):
            # Not cdist's default, which loses the small distances that thieves' queries have.
            own = torch.cdist(flat[place[rows]], flat[place], compute_mode="donot_use_mm_for_euclid_dist")
            later = torch.arange(len(place))[None] >= rows[:, None]
            found[place[rows]] = own.masked_fill(later, torch.inf).amin(1)
    return found


def normality(distances: Tensor) -> float:
    """W of Shapiro and Wilk over float64 ``[n]`` within three deviations of the mean.

    NaN is left out; of fewer than three values, or of equal ones, W is NaN.
    """
    known = distances[~distances.isnan()]
    if len(known) < 3:
        return float("nan")
    known = known[(known - known.mean()).abs() <= 3 * known.std()] if float(known.std()) else known
    if len(known) < 3 or float(known.max()) == float(known.min()):
        return float("nan")
    if len(known) > MOST:
        known = known[torch.linspace(0, len(known) - 1, MOST).long()]
    return float(stats.shapiro(known.numpy()).statistic)


def detect(log: Log, params: Params) -> Finding:
    """How far from normal the distances are, over all classes and for each."""
    labels = log.answers[1]
    distances = nearest_earlier(log.images, labels)
    classes = torch.full((len(log.trusted.classes),), torch.nan, dtype=torch.float64)
    for label in labels.unique().tolist():
        if int((labels == label).sum()) >= params.least:
            classes[label] = 1 - normality(distances[labels == label])
    known = int((~distances.isnan()).sum())
    score = 1 - normality(distances) if known >= params.least else float("nan")
    return Finding(score, classes, 1 - params.delta, items=-distances, metrics={"distances": known})
