"""What classifiers of the trusted images alone say: the only ones that no poison has touched.

Cross-fitted: each is trained on all folds of the reserve but one, so that trusted images, too, are judged by
classifiers that have not seen them, and given images by as many: only then do the two compare.  (With the mean of
all classifiers for given images, theirs were the less extreme doubts, and hard classes lost their power.)
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
from hallmark.purify.resume import weights

PURPOSE = "purify/reserve"
"""Names the noise of the trusted images in every pass over them."""


@dataclass(frozen=True)
class Judges:
    """Classifiers of the reserve, from several divisions of it into folds.

    Attributes:
        networks: one a fold, division by division, trained on the trusted images of the division's other folds and
            their purified copies.
        folds: int64 ``[R, M]``, for each division and trusted image the network that has not seen it.
    """

    networks: tuple[Network, ...]
    folds: Tensor

    def weights(self) -> dict[str, Tensor]:
        """Of all networks, by name."""
        return weights(**{f"judge {k}": network for k, network in enumerate(self.networks)})

    def for_strangers(self, labels: Tensor, trusted_labels: Tensor, generator: torch.Generator) -> Tensor:
        """Networks for images that are not of the reserve, one of each division: int64 ``[R, N]``.

        Drawn as often as they judge trusted images of the same class, for classes of few images are not in all folds.

        Args:
            labels: int64 ``[N]``; trusted_labels: int64 ``[M]``, of the reserve.
        """
        result = torch.empty(len(self.folds), len(labels), dtype=torch.int64)
        for label in labels.unique().tolist():
            rows, own = (labels == label).nonzero()[:, 0], (trusted_labels == label).nonzero()[:, 0]
            if not len(own):
                own = torch.arange(len(trusted_labels))
            for division, folds in enumerate(self.folds):
                draws = torch.randint(len(own), (len(rows),), generator=generator)
                result[division, rows] = folds[own[draws]]
        return result


def key(divisions: int, folds: int, training: Training) -> str:
    """Names the judges of a reserve that differ in nothing else."""
    return f"{divisions}/{folds}/{training.model_dump_json()}"


def train_judges(material: Material, divisions: int, folds: int, training: Training) -> Judges:
    """One classifier a division and fold, trained on raw and purified trusted images, for it will judge both.

    Raises:
        UserError: fewer trusted images than folds, or a fold's complement lacks a second class.
    """
    known = material.judges.get(key(divisions, folds, training))
    if known is not None:
        return known
    reserve = material.reserve

    def copies(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        return {"copies": candidates[:, 1]}

    images = material.purifier.scan(reserve.images, copies, PURPOSE, depends={})["copies"]
    number = torch.empty(divisions, len(reserve), dtype=torch.int64)
    networks = []
    for division in range(divisions):
        # Stratified: a class with few trusted images must not lose them all to one fold.
        order = torch.randperm(len(reserve), generator=material.runtime.generator(f"purify/folds {division}"))
        order = order[reserve.labels[order].argsort(stable=True)]
        number[division, order] = torch.arange(len(reserve)) % folds + len(networks)
        for fold in range(folds):
            rest = (number[division] != len(networks)).nonzero()[:, 0]
            if len(rest) == len(reserve) or len(reserve.labels[rest].unique()) < 2:
                raise UserError(
                    f"purify_data: the reserve of {len(reserve)} images is too small for {folds} folds; enlarge "
                    "prepare_data.reserve or lower folds"
                )
            name = f"reserve_{division}_{fold}"
            network = models.build(
                material.architecture, reserve.images, reserve.classes, material.runtime, f"purify/{name}"
            )
            pairs = torch.cat([reserve.images[rest], images[rest]]), reserve.labels[rest].repeat(2)
            material.tune(network, name, *pairs, training)
            networks.append(network)
    judges = material.judges[key(divisions, folds, training)] = Judges(tuple(networks), number)
    return judges


def doubt(judges: Judges, images: Tensor, labels: Tensor, material: Material, by: Tensor | None = None) -> Tensor:
    """1 - the probability of the given label, the mean over the networks that judge an image.

    Args:
        images: uint8 ``[B, C, H, W]``.
        labels: int64 ``[B]``.
        by: int64 ``[R, B]``, the networks that judge each image: of ``judges.folds`` for trusted images.  None:
            all networks judge all.

    Returns:
        float32 ``[B]`` in 0-1.
    """
    total = torch.zeros(len(images))
    for k, network in enumerate(judges.networks):
        rows = torch.arange(len(images)) if by is None else (by == k).any(0).nonzero()[:, 0]
        if len(rows):
            answers = models.probabilities(network, images[rows], material.runtime)
            total[rows] += answers.gather(1, labels[rows, None])[:, 0]
    return 1 - total / (len(judges.networks) if by is None else len(by))
