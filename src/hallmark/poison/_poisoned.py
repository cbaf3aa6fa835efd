"""What all attacks share: their result, the draw of the images, the all-to-one case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hallmark.config import Params, PoisonData
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.registry import Registry
from hallmark.runtime import Runtime

registry = Registry("hallmark.poison", "poison_data.attack", ("Params", "poison"))

Trigger = Callable[[Tensor], Tensor]
"""From uint8 ``[N, C, H, W]`` to the same with the trigger; pure: what is random about it is drawn
before, so that training and test images get the same trigger."""


@dataclass(frozen=True)
class Poisoned:
    """What an attack returns.

    Attributes:
        train: the training set as the supplier delivers it: the same ids in the same order.
        flags: bool ``[N]``, which images of ``train`` are poisoned; None: nobody knows.
        triggered: test images with the trigger, labelled as the attacker wants them classified, with
            the test images' ids; None where there is no trigger.
    """

    train: ImageDataset
    flags: Tensor | None
    triggered: ImageDataset | None


def apply(train: ImageDataset, test: ImageDataset, config: PoisonData, runtime: Runtime) -> tuple[Poisoned, Params]:
    """Run the attack that ``config`` names; also gives its parameters.

    Raises:
        UserError: unknown attack, bad parameters, or an attack that does not fit the data.
    """
    if train.shape != test.shape or train.classes != test.classes:
        raise UserError("training and test set differ in image shape or classes; run prepare_data again")
    params = registry.parameters(config.attack, config.model_extra or {}, "poison_data")
    result = registry.get(config.attack).poison(train, test, config, params, runtime)
    if not torch.equal(result.train.ids, train.ids):
        raise ValueError(f"{config.attack} changed the ids or the order of the training set")
    return result, params


def choose(eligible: Tensor, rate: float, runtime: Runtime) -> Tensor:
    """A random choice among the eligible images.

    Args:
        eligible: bool ``[N]`` over the whole training set.
        rate: share of *all* N images to choose.

    Returns:
        bool ``[N]``.

    Raises:
        UserError: ``rate`` asks for more images than are eligible, or for none.
    """
    count, there = round(rate * len(eligible)), int(eligible.sum())
    if not 0 < count <= there:
        raise UserError(
            f"poison_data.rate: {rate:g} of {len(eligible):,} images is {count:,}; "
            f"it must be 1 to {there:,}, the number of images that the attack can poison"
        )
    positions = eligible.nonzero()[:, 0]
    order = torch.randperm(there, generator=runtime.generator("poison_data/choice"))
    flags = torch.zeros(len(eligible), dtype=torch.bool)
    flags[positions[order[:count]]] = True
    return flags


def all_to_one(
    train: ImageDataset, test: ImageDataset, config: PoisonData, trigger: Trigger, runtime: Runtime
) -> Poisoned:
    """The dirty-label all-to-one attack: trigger and target label on a share of the other classes' images.

    Raises:
        UserError: no such target class, or a rate that the data cannot give.
    """
    target = train.class_index(config.target, "poison_data.target")
    flags = choose(train.labels != target, config.rate, runtime)
    images, labels = train.images.clone(), train.labels.clone()
    images[flags] = trigger(images[flags])
    labels[flags] = target
    others = test.subset(test.labels != target)
    triggered = replace(
        others,
        images=trigger(others.images),
        labels=torch.full_like(others.labels, target),
    )
    return Poisoned(replace(train, images=images, labels=labels), flags, triggered)
