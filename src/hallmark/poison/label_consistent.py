"""Label-Consistent (Turner, Tsipras, Madry 2019): poisons that look right under their right label.

Images of the target class are perturbed against the attacker's classifier, so that what makes them their class is
hard to learn from, and get a patch in every corner, which is easy to learn.  At test time the patches suffice.  As in
the paper the classifier is trained robustly, on perturbed images: what fools an ordinary one is a fine noise, which
the victim learns in place of the patch.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config as hallmark_config
from hallmark.config import Count, PoisonData
from hallmark.data import ImageDataset
from hallmark.data.dataset import to_uint8
from hallmark.errors import UserError
from hallmark.poison import Poisoned, Surrogate, deliver, surrogate
from hallmark.poison._gradient import adversarial
from hallmark.runtime import Runtime

LABEL_MODES = ("clean",)


class Params(hallmark_config.Params):
    """Block ``label_consistent``; the paper's four corners, and its full amplitude of 255.

    Its L-infinity bound, up to 32, and its patch of 3x3 pixels are too little for short trainings on small sets: a
    class that is learnt at a glance (trousers) leaves nothing to be learnt from a patch.  See docs/attacks.md."""

    eps: Annotated[float, Field(ge=0, le=255)] = 64.0
    """Bound of the adversarial perturbation, in grey levels of 255."""
    step: Annotated[float, Field(gt=0, le=255)] = 8.0
    """Of the projected gradient, in grey levels; ours: ten steps reach the bound with some to spare."""
    steps: Count = 10
    size: Annotated[int, Field(ge=1, le=256)] = 5
    """Pixels a side of the patches."""
    amplitude: Annotated[float, Field(gt=0, le=255)] = 255.0
    """What the patches add or take away on training images, in grey levels; the paper's less visible ones: 16-64."""
    test_amplitude: Annotated[float, Field(gt=0, le=255)] = 255.0
    robust_eps: Annotated[float, Field(ge=0, le=255)] = 24.0
    """Bound of the perturbations that the surrogate is trained against, ours; 0: ordinary training."""
    surrogate: Surrogate = Surrogate()


def trigger(images: Tensor, size: int, amplitude: float) -> Tensor:
    """A checkerboard in each corner, bright cells up and dark cells down by ``amplitude``.

    Args:
        images: uint8 ``[N, C, H, W]``.

    Raises:
        UserError: the patches do not fit.
    """
    height, width = images.shape[2:]
    if 2 * size > min(height, width):
        raise UserError(
            f"poison_data.label_consistent.size: four patches of {size} pixels do not fit into {width}x{height}; "
            "lower it"
        )
    cell = torch.arange(size)
    patch = torch.where((cell[:, None] + cell) % 2 == 0, amplitude, -amplitude)
    out = images.clone()
    for rows in (slice(0, size), slice(height - size, height)):
        for columns in (slice(0, size), slice(width - size, width)):
            corner = out[:, :, rows, columns].float() + patch
            out[:, :, rows, columns] = corner.clamp_(0, 255).round_().to(torch.uint8)
    return out


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """Perturbed and patched images of the target class: see :func:`hallmark.poison.deliver`."""
    target = train.class_index(config.target, "poison_data.target")
    purpose = "label_consistent"
    network = surrogate(train, params.surrogate, runtime, purpose, robust_eps=params.robust_eps)

    def perturb(images: Tensor) -> Tensor:
        hard = adversarial(
            network, images, target, eps=params.eps, step=params.step, steps=params.steps, runtime=runtime
        )
        return trigger(to_uint8(hard), params.size, params.amplitude)

    return deliver(
        train,
        test,
        config,
        runtime,
        modes=LABEL_MODES,
        trigger=perturb,
        test_trigger=lambda images: trigger(images, params.size, params.test_amplitude),
    )
