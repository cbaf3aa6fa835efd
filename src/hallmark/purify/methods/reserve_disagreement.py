"""The simple strong rival for dirty labels: classifiers of the trusted reserve alone do not believe the label.

Not from a paper: what a careful engineer tries first.  No alarm test, so hard clean images go as well, from any set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark.config import Params as _Params
from hallmark.config import Share, Training
from hallmark.purify.repair import PURPOSE
from hallmark.purify.reserve import doubt, train_judges
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import simple_findings


class Params(_Params):
    """Block ``reserve_disagreement``."""

    folds: Annotated[int, Field(ge=2, le=20)] = 5
    training: Training = Training(epochs=16, batch_size=50, lr=0.002, flip=True, shift=1)
    threshold: Share = 0.9
    """Mean doubt in the raw and the purified image's label from which an image is flagged."""


def detect(material: Material, params: Params) -> Findings:
    """Flag the images whose label is doubted."""
    material = replace(material, purifier=material.purifier.first_round())
    judges = train_judges(material, 1, params.folds, params.training)

    def look(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        labels = material.data.labels[index]
        parts = [doubt(judges, candidates[:, k], labels, material) for k in (0, 1)]
        return {"doubt": torch.stack(parts).mean(0)}

    depends = {"labels": material.data.labels, **judges.weights()}
    scores = material.purifier.scan(material.data.images, look, PURPOSE, depends=depends)["doubt"]
    return simple_findings(scores >= params.threshold, scores, "the trusted images' classifiers doubt the label")
