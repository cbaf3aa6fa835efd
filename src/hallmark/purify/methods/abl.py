"""Anti-Backdoor Learning (Li, Lyu, Koren, Lyu, Li, Ma 2021), its first half: poisons are learnt first.

A network is trained with local gradient ascent (their equation 3), which keeps the mean loss of a batch near gamma:
only what is learnt first gets far below, and the share of the lowest losses is isolated.  The second half, unlearning,
needs no filter; as a filter only what is isolated counts, so a fixed share is flagged of any set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Count, Positive
from hallmark.config import Params as _Params
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import simple_findings, top
from hallmark.training.loop import fit


class Params(_Params):
    """Block ``abl``."""

    gamma: Positive = 0.5
    """The paper's floor of the loss."""
    epochs: Count = 8
    """Before isolation; the paper's 20 of 100."""
    isolate: Annotated[float, Field(gt=0, lt=0.6)] = 0.1
    """Share that is flagged; the paper's 0.01 is enough to unlearn a backdoor, not to filter one."""


def ascent(losses: Tensor, gamma: float) -> Tensor:
    """sign(l - gamma) l, l the mean loss of a batch: descent above gamma, ascent below; float ``[B]`` to a scalar.

    Of the batch, as in the authors' code.  Image by image, as equation 3 may be read, the losses of the poisons are
    held near gamma as well, and little is left to tell them by.
    """
    mean = losses.mean()
    return torch.sign(mean.detach() - gamma) * mean


def isolation_losses(material: Material, params: Params) -> Tensor:
    """The cross-entropy of each given image after training with local gradient ascent, float ``[N]``.

    Raises:
        UserError: a loss stopped being finite.
    """
    data, runtime = material.data, material.runtime
    network: Network = models.build(material.architecture, data.images, data.classes, runtime, "purify/abl")
    images, labels = data.images.to(runtime.device), data.labels.to(runtime.device)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        answers = network(to_float(images[index])).float()
        return {"ascent": ascent(F.cross_entropy(answers, labels[index], reduction="none"), params.gamma)}

    training = material.training.model_copy(update={"epochs": params.epochs, "schedule": "constant"})
    try:
        fit(network, len(data), losses, training, runtime, purpose="purify/abl", callback=material.epochs("abl"))
    except FloatingPointError as error:
        raise UserError(f"purify_data.training: {error}; lower lr or set clip_norm") from None
    return F.cross_entropy(models.logits(network, data.images, runtime), data.labels, reduction="none")


def detect(material: Material, params: Params) -> Findings:
    """Flag the images that were learnt first."""
    losses = isolation_losses(material, params)
    flagged = top(-losses, max(1, round(params.isolate * len(losses))))
    return simple_findings(flagged, -losses, "learnt before others")
