"""WaNet (Nguyen, Tran 2021): the trigger is a smooth warping of the whole image, without any pattern.

The paper controls training and draws afresh for every batch which images are warped; here they are drawn once and
the set is delivered with them (data poisoning), which costs about a point of attack success after six epochs.  That
so short a training learns it at all takes five times the paper's s = 0.5, the default (docs/attacks.md).  The noise
mode are covers: images warped by the same field with noise on it, with their right label, so that not any warping but
this one is learnt.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark import config as hallmark_config
from hallmark.config import NonNegative, PoisonData
from hallmark.data import ImageDataset
from hallmark.poison import CHUNK, Covers, Poisoned, Trigger, deliver
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all")


class Params(hallmark_config.Params):
    """Block ``wanet``; the paper's k = 4, stronger warping and noise."""

    k: Annotated[int, Field(ge=2, le=64)] = 4
    """Control points of the field a side."""
    strength: Annotated[float, Field(ge=0, le=10)] = 2.5
    """The paper's s; the control points move by s / 2 pixels in each direction on average."""
    covers: NonNegative = 2.0
    """So many times as many images as poisons are warped differently, with the right label; the paper's 2
    (its rho_n = 2 rho_a)."""
    noise: Annotated[float, Field(ge=0, le=10)] = 2.0
    """Largest additional shift of a pixel of a cover, in pixels; the paper's 0.5 (1 / side of a grid whose side is 2)
    leaves an attack success of 31-35 % in place of 70-93 % (docs/attacks.md): short trainings then hardly tell covers
    from poisons."""


def field(size: tuple[int, int], params: Params, generator: torch.Generator) -> Tensor:
    """The warping: where each pixel is taken from, float ``[1, H, W, 2]`` in (x, y) of -1 to 1.

    Their equations 3 and 4: uniform k x k control points, divided by their mean magnitude, interpolated
    bicubically, times s / side (so that s moves a pixel by s / 2: the grid's 2 are one side).
    """
    points = torch.rand(1, 2, params.k, params.k, generator=generator) * 2 - 1
    points = points / points.abs().mean()
    smooth = F.interpolate(points, size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    shift = params.strength * smooth / torch.tensor([size[1], size[0]], dtype=torch.float32)
    return (identity(size) + shift).clamp(-1, 1)


def identity(size: tuple[int, int]) -> Tensor:
    """The grid that leaves an image as it is, float ``[1, H, W, 2]``."""
    rows, columns = (torch.linspace(-1, 1, side) for side in size)
    vertical, horizontal = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([horizontal, vertical], 2)[None]


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """``images`` (uint8 ``[N, C, H, W]``) seen through ``grid`` (``[1 or N, H, W, 2]``), bilinear, rounded."""
    parts = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        own = grid.expand(len(part), -1, -1, -1) if len(grid) == 1 else grid[start : start + CHUNK]
        moved = F.grid_sample(part.float(), own, mode="bilinear", padding_mode="border", align_corners=True)
        parts.append(moved.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts) if parts else images.clone()


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The warping on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    trigger, covers = draw(train, params, runtime)
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=trigger, covers=covers)


def draw(train: ImageDataset, params: Params, runtime: Runtime) -> tuple[Trigger, Covers]:
    """The warping, and what is done to covers: it is drawn anew for each."""
    size = train.shape[1:]
    grid = field(size, params, runtime.generator("poison_data/wanet"))
    noise = runtime.generator("poison_data/wanet/noise")

    def differently(images: Tensor) -> Tensor:
        # Uniform for each pixel and image, in pixels, on top of the warping itself.
        shift = (torch.rand(len(images), *size, 2, generator=noise) * 2 - 1) * params.noise
        return warp(images, (grid + 2 * shift / torch.tensor([size[1], size[0]])).clamp(-1, 1))

    return (lambda images: warp(images, grid)), Covers(params.covers, differently)
