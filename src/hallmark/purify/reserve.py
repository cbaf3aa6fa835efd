"""What classifiers of the trusted images alone say: the only ones that no poison has touched.

Cross-fitted: each is trained on all folds of the reserve but one, so that trusted images, too, are judged by
a classifier that has not seen them, and compare with given ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hallmark import models
from hallmark.config import Training
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify.result import Material

PURPOSE = "purify/reserve"
"""Names the noise of the trusted images in every pass over them."""


@dataclass(frozen=True)
class Judges:
    """Classifiers of the reserve.

    Attributes:
        networks: one a fold, trained on the others' trusted images and their purified copies.
        folds: int64 ``[M]``, the fold of each trusted image.
    """

    networks: tuple[Network, ...]
    folds: Tensor


def key(folds: int, training: Training) -> str:
    """Names the judges of a reserve that differ in nothing else."""
    return f"{folds}/{training.model_dump_json()}"


def train_judges(material: Material, folds: int, training: Training) -> Judges:
    """One classifier a fold, trained on raw and purified trusted images, for it will judge both.

    Raises:
        UserError: fewer trusted images than folds, or a fold's complement lacks a second class.
    """
    known = material.judges.get(key(folds, training))
    if known is not None:
        return known
    reserve = material.reserve
    images = material.purifier.regenerate(reserve.images, torch.arange(len(reserve)), PURPOSE)[:, 1]
    number = torch.empty(len(reserve), dtype=torch.int64)
    # Stratified: a class with few trusted images must not lose them all to one fold.
    order = torch.randperm(len(reserve), generator=material.runtime.generator("purify/folds"))
    order = order[reserve.labels[order].argsort(stable=True)]
    number[order] = torch.arange(len(reserve)) % folds
    networks = []
    for fold in range(folds):
        rest = (number != fold).nonzero()[:, 0]
        if len(rest) == len(reserve) or len(reserve.labels[rest].unique()) < 2:
            raise UserError(
                f"purify_data: the reserve of {len(reserve)} images is too small for {folds} folds; enlarge "
                "prepare_data.reserve or lower folds"
            )
        network = models.build(
            material.architecture, reserve.images, reserve.classes, material.runtime, f"purify/reserve_{fold}"
        )
        pairs = torch.cat([reserve.images[rest], images[rest]]), reserve.labels[rest].repeat(2)
        material.tune(network, f"reserve_{fold}", *pairs, training)
        networks.append(network)
    judges = material.judges[key(folds, training)] = Judges(tuple(networks), number)
    return judges


def doubt(judges: Judges, images: Tensor, labels: Tensor, material: Material, folds: Tensor | None = None) -> Tensor:
    """1 - the probability of the given label.

    Args:
        images: uint8 ``[B, C, H, W]``.
        labels: int64 ``[B]``.
        folds: int64 ``[B]`` for trusted images: judged by the one classifier that has not seen them.  None: by
            the mean of all.  That is less extreme than a single one, so a test for higher values errs towards
            no alarm.

    Returns:
        float32 ``[B]`` in 0-1.
    """
    answers = torch.stack([models.probabilities(network, images, material.runtime) for network in judges.networks])
    mean = answers.mean(0) if folds is None else answers[folds, torch.arange(len(images))]
    return 1 - mean.gather(1, labels[:, None])[:, 0]
