"""What all attacks share: their result, the draw of the images, the label modes."""

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

registry = Registry("hallmark.poison", "poison_data.attack", ("Params", "LABEL_MODES", "poison"))

CHUNK = 4096
"""Images that are held as floats at once."""
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
        covers: bool ``[N]``, altered images that keep their right label, planted to hide the poisons
            (Adaptive-Blend, WaNet); none of them is poisoned.  None: the attack has none.
    """

    train: ImageDataset
    flags: Tensor | None
    triggered: ImageDataset | None
    covers: Tensor | None = None


@dataclass(frozen=True)
class Covers:
    """Altered images with their right labels, planted to hide the poisons.

    Attributes:
        multiple: their number, as a multiple of the poisons'; 0: none.
        trigger: what is done to them.
    """

    multiple: float
    trigger: Trigger


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


def choose(
    eligible: Tensor, share: float, of: int, runtime: Runtime, *, name: str = "rate", purpose: str = "choice"
) -> Tensor:
    """A random choice among the eligible images, ``share`` times ``of`` of them.

    Args:
        eligible: bool ``[N]`` over the whole training set.
        share: the parameter's value.
        of: the number of images that it is a share (or a multiple) of.
        name: the parameter under ``poison_data`` that is to blame if there are too few.
        purpose: names the random stream.

    Returns:
        bool ``[N]``.

    Raises:
        UserError: more images are asked for than are eligible, or none.
    """
    count, there = round(share * of), int(eligible.sum())
    if not 0 < count <= there:
        raise UserError(
            f"poison_data.{name}: {share:g} of {of:,} images is {count:,}; "
            f"it must be 1 to {there:,}, the number of images that the attack can take"
        )
    positions = eligible.nonzero()[:, 0]
    order = torch.randperm(there, generator=runtime.generator(f"poison_data/{purpose}"))
    flags = torch.zeros(len(eligible), dtype=torch.bool)
    flags[positions[order[:count]]] = True
    return flags


def label_mode(config: PoisonData, modes: tuple[str, ...]) -> str:
    """The label mode that ``config`` asks for; ``usual`` is the first of the attack's ``modes``.

    Raises:
        UserError: the attack has no such mode.
    """
    mode = modes[0] if config.label_mode == "usual" else config.label_mode
    if mode not in modes:
        raise UserError(f"poison_data.label_mode: {config.attack} has {', '.join(modes)} only, not {mode}")
    return mode


def deliver(
    train: ImageDataset,
    test: ImageDataset,
    config: PoisonData,
    runtime: Runtime,
    *,
    modes: tuple[str, ...],
    trigger: Trigger,
    test_trigger: Trigger | None = None,
    covers: Covers | None = None,
) -> Poisoned:
    """Put ``trigger`` on a share of the training images and label them as the mode wants.

    ============  ================================  ==============  ===============================
    mode          training images drawn from        their label     triggered test images, wanted label
    ============  ================================  ==============  ===============================
    all_to_one    classes other than the target     the target      of the other classes, the target
    all_to_all    all classes                       the next class  all, the next class
    clean         the target class                  stays           of the other classes, the target
    ============  ================================  ==============  ===============================

    Args:
        modes: the attack's ``LABEL_MODES``.
        test_trigger: the trigger at test time, where it differs (a stronger one).
        covers: images altered to hide the poisons, drawn from those that are not poisoned.

    Raises:
        UserError: no such target class, a mode that the attack lacks, or a rate that the data cannot give.
    """
    mode = label_mode(config, modes)
    target = train.class_index(config.target, "poison_data.target")
    eligible = {
        "all_to_one": train.labels != target,
        "all_to_all": torch.ones_like(train.labels, dtype=torch.bool),
        "clean": train.labels == target,
    }[mode]
    flags = choose(eligible, config.rate, len(train), runtime)
    images, labels = train.images.clone(), train.labels.clone()
    images[flags] = trigger(images[flags])
    labels[flags] = wanted(labels[flags], mode, target, len(train.classes))
    planted = None
    if covers is not None and covers.multiple > 0:
        poisons, name = int(flags.sum()), f"{config.attack}.covers"
        planted = choose(~flags, covers.multiple, poisons, runtime, name=name, purpose="covers")
        images[planted] = covers.trigger(images[planted])
    victims = test if mode == "all_to_all" else test.subset(test.labels != target)
    triggered = replace(
        victims,
        images=(test_trigger or trigger)(victims.images),
        labels=wanted(victims.labels, mode if mode == "all_to_all" else "all_to_one", target, len(train.classes)),
    )
    return Poisoned(replace(train, images=images, labels=labels), flags, triggered, planted)


def add(images: Tensor, signal: Tensor) -> Tensor:
    """``images`` (uint8 ``[N, C, H, W]``) plus ``signal`` (float ``[C, H, W]``, grey levels), rounded and clamped."""
    # In chunks, for the floating-point copy of a large set would not fit into memory.
    parts = [(part.float() + signal).round_().clamp_(0, 255).to(torch.uint8) for part in images.split(CHUNK)]
    return torch.cat(parts)


def wanted(labels: Tensor, mode: str, target: int, classes: int) -> Tensor:
    """The labels that the attacker gives to images of the classes ``labels`` (int64 ``[N]``)."""
    if mode == "all_to_all":
        return (labels + 1) % classes
    return labels.clone() if mode == "clean" else torch.full_like(labels, target)
