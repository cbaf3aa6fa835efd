"""Short segments of diffusion: noise images up to a step T, then denoise them with few evaluations.

The noise of an image depends on (seed, purpose, position) alone and every batch has :data:`CHUNK` rows: the result
for an image is the same whichever other images it is computed with, and whoever computes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from hallmark.diffusion.model import DiffusionModel, from_signed, to_signed
from hallmark.diffusion.training import add_noise
from hallmark.errors import UserError
from hallmark.runtime import Runtime

CHUNK = 250
"""Positions that share one noise generator, and rows of a batch; a constant, or noise and last bits would depend
on a batch size."""

Draw = Callable[[], Tensor]
"""Fresh standard normal noise, of the shape of the folded batch."""
Sampler = Callable[[DiffusionModel, Tensor, Sequence[int], Draw], list[Tensor]]
"""From folded ``x_T`` and descending time steps (the first is T's) to the state after each step."""


class Noise:
    """Standard normal noise of images by their positions, drawn chunk by chunk: no loop over images.

    Each call draws the next noise of every row.

    Args:
        positions: int64 ``[B]``, in any order, each once.
        shape: of one image's noise.
        purpose: names the stream.
    """

    def __init__(self, runtime: Runtime, purpose: str, positions: Tensor, shape: Sequence[int]) -> None:
        self._device, self._shape = runtime.device, tuple(shape)
        chunks, place = (positions // CHUNK).unique(return_inverse=True)
        self._generators = [runtime.generator(f"{purpose}/chunk {chunk}") for chunk in chunks.tolist()]
        order = place.argsort(stable=True)
        self._inverse = order.argsort()
        self._wanted = (positions[order] % CHUNK).split(torch.bincount(place, minlength=len(chunks)).tolist())

    def __call__(self) -> Tensor:
        parts = [
            torch.randn((CHUNK, *self._shape), generator=generator)[wanted]
            for generator, wanted in zip(self._generators, self._wanted, strict=True)
        ]
        return torch.cat(parts)[self._inverse].to(self._device)


def ddim(model: DiffusionModel, x: Tensor, timesteps: Sequence[int], noise: Draw) -> list[Tensor]:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma 0), x0 clipped.

    Own code because diffusers' DDIMScheduler takes no explicit time steps.  With one time step this is
    the model's x0 prediction.
    """
    states = []
    for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        alpha = model.alphas_cumprod[t]
        alpha_next = model.alphas_cumprod[following] if following >= 0 else torch.tensor(1.0)
        x0 = ((x - (1 - alpha).sqrt() * model.predict_noise(x, t)) / alpha.sqrt()).clamp(-1, 1)
        direction = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
        x = alpha_next.sqrt() * x0 + (1 - alpha_next).sqrt() * direction
        states.append(x)
    return states


def dpm_solver(model: DiffusionModel, x: Tensor, timesteps: Sequence[int], noise: Draw) -> list[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022), diffusers' scheduler."""
    scheduler: Any = DPMSolverMultistepScheduler.from_config(
        model.scheduler.config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    with warnings.catch_warnings():
        # diffusers hands a tensor to np.array, which numpy 2 warns of; the result is right.
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler.set_timesteps(timesteps=list(timesteps))
    states = []
    for t in timesteps:
        x = scheduler.step(model.predict_noise(x, t), torch.tensor(t), x).prev_sample
        states.append(x)
    return states


def ancestral(model: DiffusionModel, x: Tensor, timesteps: Sequence[int], noise: Draw) -> list[Tensor]:
    """Ancestral sampling of DDPM (Ho et al. 2020, algorithm 2 and eq. 7), x0 clipped.

    The arithmetic of diffusers' DDPMScheduler, which draws the noise of a batch from one generator and so cannot
    give an image the same noise in another batch.  The variance is the one that the model's schedule names:
    ``fixed_small`` (beta tilde) or, as in DataElixir, ``fixed_large`` (beta).
    """
    large = model.scheduler.config["variance_type"] == "fixed_large"
    states = []
    for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        alpha_bar = model.alphas_cumprod[t]
        before = model.alphas_cumprod[following] if following >= 0 else torch.tensor(1.0)
        alpha = alpha_bar / before
        x0 = ((x - (1 - alpha_bar).sqrt() * model.predict_noise(x, t)) / alpha_bar.sqrt()).clamp(-1, 1)
        if following < 0:  # z = 0 in the last step
            x = x0
        else:
            mean = before.sqrt() * (1 - alpha) / (1 - alpha_bar) * x0
            mean += alpha.sqrt() * (1 - before) / (1 - alpha_bar) * x
            variance = 1 - alpha if large else (1 - alpha) * (1 - before) / (1 - alpha_bar)
            x = mean + variance.clamp_min(1e-20).sqrt() * noise()
        states.append(x)
    return states


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpm_solver": dpm_solver, "ancestral": ancestral}


def segment(start: int, steps: int) -> list[int]:
    """``steps`` time steps, evenly spaced, from ``start - 1`` down: ``segment(150, 3) = [149, 99, 49]``."""
    if not 1 <= steps <= start:
        raise UserError(f"purify_data: {steps} sampler steps do not fit into {start} diffusion steps; use fewer")
    return [round(start * k / steps) - 1 for k in range(steps, 0, -1)]


def check(model: DiffusionModel, shape: tuple[int, int, int], start: int, where: str) -> None:
    """Refuse images or a segment that the model was not made for.

    Raises:
        UserError: another size, other channels, or ``start`` beyond what the network was trained on.
    """
    if tuple(shape) != tuple(model.shape):
        images, own = ("x".join(map(str, (s[1], s[2], s[0]))) for s in (shape, model.shape))
        raise UserError(f"{where}: the images are {images}, the diffusion model's {own}; train it on the same data")
    if start > model.trained_below:
        raise UserError(
            f"{where}: noises up to step {start}, but the diffusion model was trained below "
            f"{model.trained_below}; lower the method's start or raise train_diffusion.trained_below"
        )


@torch.no_grad()
def round_trip(
    model: DiffusionModel,
    images: Tensor,
    positions: Tensor,
    runtime: Runtime,
    *,
    start: int,
    sampler: str,
    steps: int,
    keep: int,
    purpose: str,
) -> Tensor:
    """Noise a batch of images up to ``start`` and denoise them: one round of purification.

    Args:
        images: uint8 ``[B, C, H, W]`` on the runtime's device, at most :data:`CHUNK` of them.
        positions: int64 ``[B]`` on the CPU, the images' places in their data set, each once.
        keep: the last so many states are returned (at most ``steps``).
        purpose: names the noise stream, e.g. ``"purify/round 1"``; an image's noise depends on it, the seed and
            its position.

    Returns:
        uint8 ``[B, keep, C, H, W]`` on the runtime's device, the fully denoised image last.
    """
    timesteps = segment(start, steps)
    count = len(images)
    clean = model.fold(to_signed(images))
    # Always a full batch: a library may compute batches of another size in another way.
    clean = torch.cat([clean, clean.new_zeros(CHUNK - count, *clean.shape[1:])])
    draw = Noise(runtime, purpose, positions, clean.shape[1:])

    def noise() -> Tensor:
        drawn = draw()
        return torch.cat([drawn, drawn.new_zeros(CHUNK - count, *drawn.shape[1:])])

    noisy = add_noise(clean, noise(), model.alphas_cumprod[timesteps[0]])
    with runtime.autocast():
        states = SAMPLERS[sampler](model, noisy.contiguous(), timesteps, noise)
    return torch.stack([from_signed(model.unfold(state[:count])) for state in states[-keep:]], 1)
