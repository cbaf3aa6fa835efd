"""Short segments of diffusion: noise images up to a step T, then denoise them with few evaluations.

Noise depends on (seed, purpose, chunk of images) alone, in chunks of :data:`CHUNK` positions: the
result for an image is the same whatever the other chunks are and whoever computes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from hallmark.diffusion.model import DiffusionModel, from_signed, to_signed
from hallmark.diffusion.training import add_noise
from hallmark.errors import UserError
from hallmark.progress import Advance, silent
from hallmark.runtime import Runtime

CHUNK = 250
"""Images that share one noise generator; a constant, or the noise would depend on a batch size."""

Sampler = Callable[[DiffusionModel, Tensor, Sequence[int], torch.Generator], list[Tensor]]
"""From folded ``x_T`` and descending time steps (the first is T's) to the state after each step."""


def ddim(model: DiffusionModel, x: Tensor, timesteps: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma 0), x0 clipped.

    Own code because diffusers' DDIMScheduler takes no explicit time steps.  With one time step this is
    the model's x0 prediction.
    """
    states = []
    for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        alpha = model.alphas_cumprod[t]
        alpha_next = model.alphas_cumprod[following] if following >= 0 else torch.tensor(1.0)
        noise = model.predict_noise(x, t)
        x0 = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        clipped = x0.clamp(-1, 1)
        noise = (x - alpha.sqrt() * clipped) / (1 - alpha).sqrt()
        x = alpha_next.sqrt() * clipped + (1 - alpha_next).sqrt() * noise
        states.append(x)
    return states


def dpm_solver(model: DiffusionModel, x: Tensor, timesteps: Sequence[int], generator: torch.Generator) -> list[Tensor]:
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


def ancestral(model: DiffusionModel, x: Tensor, timesteps: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Ancestral sampling of DDPM (Ho et al. 2020, algorithm 2), diffusers' scheduler."""
    scheduler: Any = DDPMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(timesteps=list(timesteps))
    states = []
    for t in timesteps:
        output = scheduler.step(model.predict_noise(x, t), t, x, generator=generator)
        # The last step adds no noise (z = 0 in algorithm 2); diffusers knows it as the last only at t = 0.
        x = output.pred_original_sample if t == timesteps[-1] else output.prev_sample
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
    runtime: Runtime,
    *,
    start: int,
    sampler: str,
    steps: int,
    keep: int,
    purpose: str,
    advance: Advance = silent,
) -> Tensor:
    """Noise ``images`` up to ``start`` and denoise them: one round of purification.

    Args:
        images: uint8 ``[N, C, H, W]``.
        keep: the last so many states are returned (at most ``steps``).
        purpose: names the noise stream, e.g. ``"purify/round 1"``.

    Returns:
        uint8 ``[N, keep, C, H, W]``, the fully denoised image last.
    """
    timesteps = segment(start, steps)
    keep = min(keep, steps)
    outputs = torch.empty((len(images), keep, *images.shape[1:]), dtype=torch.uint8)
    for chunk, part in enumerate(images.split(CHUNK)):
        generator = runtime.generator(f"{purpose}/chunk {chunk}")
        clean = model.fold(to_signed(part.to(runtime.device)))
        # The whole chunk's noise is drawn even for a short last chunk, so that appending images changes nothing.
        noise = torch.randn((CHUNK, *clean.shape[1:]), generator=generator)[: len(part)].to(runtime.device)
        noisy = add_noise(clean, noise, model.alphas_cumprod[timesteps[0]])
        with runtime.autocast():
            states = SAMPLERS[sampler](model, noisy.contiguous(), timesteps, generator)
        for k, state in enumerate(states[-keep:]):
            outputs[chunk * CHUNK : chunk * CHUNK + len(part), k] = from_signed(model.unfold(state)).cpu()
        advance(len(part))
    return outputs
