"""MEA-Defender for encoders: SimCLR with the self-supervised forms of the losses (Lv et al. 2024, section IV).

Labels are needed of images of three classes alone, s_i, s_j and y_t; SimCLR's own loss sees none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark import training
from hallmark.config import Balance, KeyParams, NonNegative, Positive, WatermarkSamples
from hallmark.config import Params as Block
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.ssl import losses, simclr
from hallmark.ssl.schemes import Stage, _keyed
from hallmark.watermark.key import Key, key_of
from hallmark.watermark.mgda import balanced
from hallmark.watermark.sampler import Batch, Sampler

read_mark = _keyed.read_mark
TARGET = 2
"""Place of y_t among the three prototypes; those of s_i and s_j come first."""
OTHERS = ("utility", "verification", "distance", "evasion")
"""The first of the two groups of ``mgda_two_groups``; the combination loss is the other."""


class Weights(Block):
    """Fixed factors of the mark's losses, with MGDA before its coefficients; SimCLR's counts once."""

    verification: NonNegative = 1.0
    """Cross-entropy of watermark samples to y_t among the three prototypes."""
    distance: NonNegative = 1.0
    """Whitened distance of watermark samples to y_t's mean."""
    evasion: NonNegative = 0.6
    """Cross-entropy of randomly mixed samples to one of their two classes among the three prototypes."""
    combination: NonNegative = 1.0
    """y_t's prototype on the bisector of those of s_i and s_j."""


class Params(KeyParams):
    """Block of the scheme ``mea_defender``."""

    samples: WatermarkSamples
    """``watermark`` is the number of images of y_t as well."""
    balance: Balance = "fixed"
    weights: Weights = Weights()
    temperature: Positive = 0.1
    """Of the cross-entropies among the prototypes."""
    apart: Annotated[float, Field(ge=-1, le=1)] = 0.1
    """Cosine of the two source classes above which they are pushed apart."""

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if self.samples.partial:
            raise ValueError("samples.partial: an encoder has no soft labels for them; set it to 0")
        return self


def make_key(params: Params, data: ImageDataset, runtime: Runtime) -> Key:
    """The key of these parameters.

    Raises:
        UserError: unknown classes or ways, or the three classes are not different.
    """
    return key_of(params, "mea_defender", data, runtime, "mea_defender")


def strike(
    network: Network,
    data: ImageDataset,
    params: Params,
    stage: Stage,
    *,
    callback: training.EpochCallback = training.no_callback,
) -> _keyed.KeyMark:
    """See :mod:`hallmark.ssl.schemes`.

    Raises:
        UserError: unknown classes or ways, or one of the three classes has fewer than two images.
    """
    key = make_key(params, data, stage.runtime)
    for label in (*key.source, key.target):
        if (available := len(data.of_class(label))) < 2:
            raise UserError(f"mea_defender: class '{key.name(label)}' has {available} images where 2 are needed")
    extra = _Extra(network, data, key, params, stage)
    combine, report = balanced(params.balance, params.weights.model_dump(), OTHERS, callback)
    simclr.train(
        network,
        data.images,
        stage.simclr,
        stage.training,
        stage.runtime,
        purpose=stage.purpose,
        extra=extra,
        combine=combine,
        callback=report,
    )
    return _keyed.KeyMark(key)


class _Extra:
    """The mark's losses of a batch: a :data:`hallmark.ssl.simclr.Extra`."""

    def __init__(self, network: Network, data: ImageDataset, key: Key, params: Params, stage: Stage) -> None:
        runtime, purpose = stage.runtime, stage.purpose
        self._params, self._key = params, key
        self._sampler = Sampler(key, data, params.samples, runtime.device, runtime.generator(f"{purpose}/watermark"))
        self._targets = data.of_class(key.target).to(runtime.device)
        self._draws = runtime.generator(f"{purpose}/target")
        self._whitened = losses.Whitened(simclr.feature_size(network), runtime.device)

    def __call__(self) -> tuple[Tensor, simclr.Losses]:
        batch, count = self._sampler.draw(), self._params.samples.watermark
        drawn = torch.randint(len(self._targets), (count,), generator=self._draws).to(self._targets.device)
        parts = [batch.mixed, batch.first, batch.second, to_float(self._targets[drawn]), batch.evasion]
        return torch.cat(parts), partial(self._losses, batch, [len(part) for part in parts])

    def _losses(self, batch: Batch, sizes: list[int], views: Tensor, own: Tensor) -> Mapping[str, Tensor]:
        standard = losses.Standard.of(views)
        mixed, first, second, target, evasion = standard(own).split(sizes)
        self._whitened.see(standard(views), target)
        prototypes = torch.stack([losses.prototype(each) for each in (first, second, target)])
        return {
            "verification": self._verification(mixed, prototypes),
            "distance": self._whitened.distance(mixed),
            "evasion": self._evasion(evasion, prototypes, batch),
            "combination": losses.bisector(prototypes, self._params.apart),
        }

    def _verification(self, mixed: Tensor, prototypes: Tensor) -> Tensor:
        target = torch.full((len(mixed),), TARGET, device=mixed.device)
        return losses.among(mixed, prototypes, target, self._params.temperature)

    def _evasion(self, evasion: Tensor, prototypes: Tensor, batch: Batch) -> Tensor:
        labels = (batch.evasion_labels == self._key.source[1]).long()
        return losses.among(evasion, prototypes, labels, self._params.temperature)
