"""Spectral Signatures (Tran, Li, Madry 2018): images that stand out along a class's strongest direction.

The method assumes the rate of poisons known and removes 1.5 times as many images *of every class*, poisoned or not
(their algorithm 1): with the default, 15 % of any set.  One deviation: never more than half of a class, which makes a
difference from a rate of a third on; from two thirds on nothing would be left.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from hallmark.config import Params as _Params
from hallmark.outliers import spectral_scores
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import features_by_class, simple_findings, top


class Params(_Params):
    """Block ``spectral_signatures``."""

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The paper's epsilon / n: assumed upper bound of the poisons' share of a class."""
    factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    """The paper's 1.5."""


def detect(material: Material, params: Params) -> Findings:
    """Flag the highest scores of every class."""
    flagged = torch.zeros(len(material.data), dtype=torch.bool)
    scores = torch.zeros(len(material.data))
    for _, rows, features in features_by_class(material):
        raw = torch.from_numpy(spectral_scores(features))
        # Relative to the class, so that scores compare between classes; the order within one is the paper's.
        scores[rows] = (raw / raw.mean().clamp_min(1e-12)).float()
        # Rounded first: 1.5 * 0.1 * 100 is a little more than 15 in binary, and would be 16 images.
        count = math.ceil(round(params.factor * params.rate * len(rows), 6))
        flagged[rows] = top(raw, min(len(rows) // 2, count))
    return simple_findings(flagged, scores, "stands out along its class's strongest direction")
