"""Narcissus-like (Zeng, Pan, Just, Lyu, Qiu, Jia 2023): a clean-label trigger made of the target class itself.

One small noise for all images is optimised so that the attacker's classifier becomes *surer* of the target class
(their equation 3).  It says "target" by itself, so that few images of the target class that carry it suffice; at
test time it is amplified.  The paper trains its surrogate on public data of other classes and tunes it on the target
class; here it is trained on the set that will be delivered, which the attacker has.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark import config as hallmark_config
from hallmark.config import Count, PoisonData, Positive
from hallmark.data import ImageDataset
from hallmark.models import Network
from hallmark.poison import Poisoned, Surrogate, add, deliver, surrogate
from hallmark.poison._gradient import optimise
from hallmark.runtime import Runtime

LABEL_MODES = ("clean",)


class Params(hallmark_config.Params):
    """Block ``narcissus``; the paper: an L-infinity bound of 16, threefold strength at test time, 1,000 steps.

    A noise of 16 is not learnt in a short training on a small set; with 36 and twofold strength it is, at the price
    that more of its effect is an adversarial one on any model (the floor in docs/attacks.md)."""

    eps: Annotated[float, Field(gt=0, le=255)] = 36.0
    """Bound of the noise, in grey levels of 255."""
    amplify: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Factor of the noise at test time."""
    steps: Count = 100
    """With ``batch_size`` and ``lr``, ours."""
    batch_size: Count = 128
    lr: Positive = 0.01
    surrogate: Surrogate = Surrogate()


def noise(network: Network, images: Tensor, target: int, params: Params, runtime: Runtime) -> Tensor:
    """The noise that makes ``network`` surest of ``target`` on images of that class, float ``[C, H, W]``, grey levels.

    Args:
        network: in eval mode.
        images: uint8 ``[N, C, H, W]``, of the target class.
    """
    bound = params.eps / 255

    def loss(batch: Tensor, pattern: Tensor) -> Tensor:
        wanted = torch.full((len(batch),), target, device=batch.device)
        return F.cross_entropy(network((batch + pattern).clamp(0, 1)).float(), wanted)

    start = torch.zeros(images.shape[1:])
    pattern = optimise(
        start,
        loss,
        images,
        lr=params.lr,
        steps=params.steps,
        batch_size=params.batch_size,
        project=lambda p: p.clamp(-bound, bound),
        runtime=runtime,
        purpose="poison_data/narcissus",
    )
    return 255 * pattern


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The noise on images of the target class: see :func:`hallmark.poison.deliver`."""
    target = train.class_index(config.target, "poison_data.target")
    network = surrogate(train, params.surrogate, runtime, "narcissus")
    signal = noise(network, train.images[train.labels == target], target, params, runtime)
    return deliver(
        train,
        test,
        config,
        runtime,
        modes=LABEL_MODES,
        trigger=lambda images: add(images, signal),
        test_trigger=lambda images: add(images, params.amplify * signal),
    )
