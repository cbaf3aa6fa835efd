"""Fine-tuning: FTAL, FTLL, RTAL and RTLL of Adi et al. 2018 ("Turning Your Weakness Into a Strength", USENIX Security).

All layers (``..AL``) or the last one (``..LL``), from the weights as they are (``FT..``) or with the last layer drawn
afresh first (``RT..``).  MEA-Defender fine-tunes all layers for 100 epochs on the thief's queries (section VI); a
thief who has truly labelled images uses those (``labels: ground_truth``).  Learning rate and epochs are
``training``'s; there are no defaults, for the papers' (SGD, 0.01 to 0.001) go with networks of another size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate, reinitialise_head


class Params(Lessons):
    """Block of a ``fine_tuning`` removal."""

    mode: Literal["FTAL", "FTLL", "RTAL", "RTLL"] = "FTAL"


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.  The last layer alone learns from features without dropout or drift of
    batch statistics: nothing else of the model changes.

    Raises:
        UserError: more images than the thief has.
    """
    model, lesson = duplicate(network), means.lesson(params)
    batch = lesson.batches()
    if params.mode.startswith("RT"):
        reinitialise_head(model, means)
    if params.mode.endswith("AL"):
        lesson.fit(model, lambda index: {"fit": lesson.loss(model(batch(index)), index)})
        return model

    def last_layer(index: Tensor) -> Mapping[str, Tensor]:
        with torch.no_grad():
            features = model.features(batch(index))
        return {"fit": lesson.loss(model.head(features), index)}

    lesson.fit(model.head, last_layer)
    return model
