"""Steps 6 and 7 of DataElixir: the benign model, and what becomes of the suspicious images."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Training
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify.result import Material
from hallmark.purify.selection import distances, select
from hallmark.purify.transitions import predict_candidates


def train_benign(material: Material, images: Tensor, labels: Tensor, trusted: Tensor) -> Network:
    """A classifier that has seen no suspicious image.

    Args:
        images, labels: of the whole set.
        trusted: bool ``[N]``, what is trained on.

    Raises:
        UserError: (almost) everything is suspicious.
    """
    if int(trusted.sum()) < 2:
        raise UserError(
            f"purify_data: {len(trusted) - int(trusted.sum())} of {len(trusted)} images are suspicious, nothing is "
            "left to train the benign model on; check the reserve's labels and the diffusion model"
        )
    return material.train("benign", images[trusted], labels[trusted])


def consensus_fine_tuning(
    benign: Network,
    material: Material,
    candidates: Tensor,
    *,
    suspicious: Tensor,
    tentative: Tensor,
    images: Tensor,
    labels: Tensor,
    percentile: float,
    training: Training,
) -> int:
    """Fine-tune ``benign`` with the suspicious images whose tentative label it confirms, in place.

    Args:
        candidates: uint8 ``[S, M, C, H, W]`` of the suspicious images, the raw image in column 0.
        suspicious: bool ``[N]``; S of them.
        tentative: int64 ``[S]``, the majority label of each.
        images, labels: the whole set; rows that are not suspicious are trained on as they stand.

    Returns:
        How many suspicious images were confirmed.
    """
    if len(candidates) == 0:
        return 0
    answers = predict_candidates(benign, candidates, material.runtime)
    confirmed = answers[:, 0] == tentative
    chosen = choose_classified_as(candidates, answers, tentative, material, percentile)
    confirmed &= chosen >= 0
    added = candidates[confirmed, chosen[confirmed]]
    material.tune(
        benign,
        "benign_consensus",
        torch.cat([images[~suspicious], added]),
        torch.cat([labels[~suspicious], tentative[confirmed]]),
        training,
    )
    return int(confirmed.sum())


def choose_classified_as(
    candidates: Tensor, answers: Tensor, labels: Tensor, material: Material, percentile: float
) -> Tensor:
    """Select, by distance from the raw image, among the candidates that a model gives ``labels``.

    Args:
        candidates: uint8 ``[S, M, C, H, W]``, the raw image in column 0.
        answers: int64 ``[S, M]``, the model's labels of them.
        labels: int64 ``[S]``.

    Returns:
        int64 ``[S]``: the column; -1 if no candidate has the label.
    """
    distance = distances(candidates[:, 0], candidates, material.suspect, material.runtime)
    return select(distance, answers == labels[:, None], percentile)


def vote(network: Network, candidates: Tensor, material: Material) -> tuple[Tensor, Tensor]:
    """The mean probabilities that ``network`` gives to each image's candidates: label and confidence ``[S]``."""
    n, m = candidates.shape[:2]
    mean = models.probabilities(network, candidates.flatten(0, 1), material.runtime).view(n, m, -1).mean(1)
    confidence, label = mean.max(1)
    return label, confidence
