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
from hallmark.runtime import Runtime


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


def opinions(network: Network, candidates: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor, Tensor]:
    """What ``network`` says of each image's candidates, and what it says of its copies together.

    Args:
        candidates: uint8 ``[N, M, C, H, W]``, the raw image in column 0.

    Returns:
        answers: int64 ``[N, M]``, its label of each candidate.
        labels, confidence: int64 and float32 ``[N]``, by the mean of its probabilities of the M - 1 copies.
    """
    n, m = candidates.shape[:2]
    logits = models.logits(network, candidates.flatten(0, 1), runtime).view(n, m, -1)
    confidence, labels = logits[:, 1:].softmax(2).mean(1).max(1)
    return logits.argmax(2), labels, confidence
