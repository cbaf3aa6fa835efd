"""Where a network's outputs on watermark samples lie among its outputs on plain images, at a few moments of training.

Lv et al. 2024 show PCA of the output features of four groups, s_i, s_j, y_t and the watermark, as the WSR grows: the
mark survives extraction if the outputs on watermark samples stay in the domain of those on the main task's images.
Which outputs, before or after softmax, the paper leaves open; here are both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from hallmark import models
from hallmark.config import TrainWatermarked
from hallmark.data.dataset import ImageDataset
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, no_callback
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Key

SHOWN = 300
"""Points of each group at most."""
WATERMARK = "watermark samples"
"""Name of the last group; the others bear the names of their classes."""


@dataclass(frozen=True)
class Snapshot:
    """What a network gave after an epoch.

    Attributes:
        epoch: 0: before any training.
        logits: by name of the group, float32 ``[N, K]``, N at most :data:`SHOWN`.
        wsr: watermark samples called the target, 0-1, of all that were asked.
        plain: plain images of the source classes called the target, 0-1, of those shown.
    """

    epoch: int
    logits: Mapping[str, Tensor]
    wsr: float
    plain: float


@dataclass(frozen=True)
class Projection:
    """Outputs in the plane of two principal components, those of the last panel.

    Attributes:
        points: group to float ``[N, 2]``, one mapping a panel.
        shares: of the last panel's variance, what either component explains; 0-1.
        basis: the components, ``[2, K]``; the largest entry of each is positive.
    """

    points: Sequence[Mapping[str, np.ndarray]]
    shares: tuple[float, float]
    basis: np.ndarray


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of logits ``[N, K]``: what a thief sees, and what the combination loss compares."""
    return logits.softmax(1)


def centred(logits: Tensor) -> Tensor:
    """Logits ``[N, K]`` less their mean over the classes: all that softmax leaves of them, without its saturation."""
    return logits - logits.mean(1, keepdim=True)


def moments(config: TrainWatermarked) -> list[int]:
    """Epochs after which a picture is taken: the last one before the mark's losses (0: untrained), the first one with
    them, some root of their number, the last.  The mark is learnt early."""
    before = config.first_phase.training.epochs if config.first_phase is not None else 0
    epochs = config.training.epochs
    return sorted({before, before + 1, before + round(math.sqrt(epochs)), before + epochs})


class Snapshots:
    """An :data:`hallmark.training.EpochCallback` that takes a :class:`Snapshot` at :func:`moments`, in evaluation mode.

    It draws nothing from the global generators and changes nothing of the network: a model is the same bytes with it
    and without.

    Args:
        network: the one that is trained.
        data: held-out images.  The watermark samples are those of :func:`hallmark.watermark.mea_defender.evaluate`.
        then: called after every epoch as well.

    Raises:
        UserError: too few images for ``config.evaluation`` watermark samples.
    """

    def __init__(
        self,
        network: Network,
        key: Key,
        data: ImageDataset,
        config: TrainWatermarked,
        runtime: Runtime,
        *,
        then: EpochCallback = no_callback,
    ) -> None:
        self.taken: list[Snapshot] = []
        self._network, self._key, self._runtime, self._then = network, key, runtime, then
        self._moments = moments(config)
        generator, self._plain = runtime.generator("watermark/output features"), dict[str, Tensor]()
        for label in (*key.source, key.target):
            images = data.of_class(label)
            self._plain[key.name(label)] = images[torch.randperm(len(images), generator=generator)[:SHOWN]]
        self._mixed = mea_defender.evaluation_queries(key, data, config.evaluation, runtime).mixed
        if self._moments[0] == 0:
            self._take(0)

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._then(epoch, metrics)
        if epoch in self._moments:
            self._take(epoch)

    def _take(self, epoch: int) -> None:
        plain = [*self._plain.values()]
        found = models.logits(self._network, torch.cat([*plain, self._mixed]), self._runtime)
        *outputs, mixed = found.split([*map(len, plain), len(self._mixed)])
        groups = dict(zip(self._plain, outputs, strict=True)) | {WATERMARK: mixed[:SHOWN]}
        wsr, sources = (mea_defender.rate(each, self._key.target) for each in (mixed, torch.cat(outputs[:2])))
        self.taken.append(Snapshot(epoch, groups, wsr, sources))


def project(panels: Sequence[Mapping[str, Tensor]]) -> Projection:
    """All panels on one basis, that of the last: axes and origin mean the same in each.

    The last one's, because the question is where the finished model's watermark samples lie; fitted on all, the axes
    would be spent on how the outputs grow in training.

    Args:
        panels: group to outputs ``[N, K]``, K at least 2.
    """
    last = torch.cat(list(panels[-1].values())).double().numpy()
    with np.errstate(invalid="ignore"):  # outputs that are all the same have no variance to be shared out
        pca = PCA(2, svd_solver="full").fit(last)
    first, second = np.nan_to_num(pca.explained_variance_ratio_).tolist()
    points = [
        {
            name: pca.transform(outputs.double().numpy()) if len(outputs) else np.empty((0, 2))
            for name, outputs in panel.items()
        }
        for panel in panels
    ]
    return Projection(points, (first, second), np.asarray(pca.components_))
