"""How well a diffusion model denoises: numbers and rows of pictures.

Both are taken from the reserve itself, the images that the model was trained on (all trusted images are
needed for training): they say whether it learnt, not how it does on images that it has not seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.data.dataset import ImageDataset
from hallmark.diffusion.model import DiffusionModel, from_signed, to_signed
from hallmark.diffusion.samplers import CHUNK, SAMPLERS, Noise, segment
from hallmark.diffusion.training import add_noise
from hallmark.runtime import Runtime

SHOWN = 10


def levels(model: DiffusionModel) -> list[int]:
    """Four time steps of the segment that the model knows, and its last."""
    last = min(model.trained_below, 200)
    return sorted({max(last * k // 5, 1) for k in range(1, 6)})


@torch.no_grad()
def measure(model: DiffusionModel, trusted: ImageDataset, runtime: Runtime) -> dict[str, float]:
    """Error of the x0 prediction (images in 0-1, mean squared) from several time steps, and the size.

    The error is that on ``trusted`` itself, which the model was trained on (a pretrained one was not).
    """
    images = trusted.images[: 4 * CHUNK]
    metrics: dict[str, float] = {"parameters": sum(p.numel() for p in model.unet.parameters())}
    for level in levels(model):
        error = 0.0
        for rows in torch.arange(len(images)).split(CHUNK):
            denoised, _ = _denoise(model, images[rows], rows, runtime, level=level, purpose="measure")
            error += float((denoised.float() - images[rows].float()).div(255).square().mean((1, 2, 3)).sum())
        metrics[f"reserve_x0_mse_t{level}"] = error / max(len(images), 1)
    return metrics


@torch.no_grad()
def showcase(model: DiffusionModel, trusted: ImageDataset, runtime: Runtime) -> list[tuple[str, Tensor]]:
    """Rows for a picture: trusted images, then noised and denoised from several time steps."""
    first = torch.tensor([int((trusted.labels == c).nonzero()[0]) for c in trusted.labels.unique().tolist()][:SHOWN])
    images = trusted.images[first]
    rows = [("original", images)]
    for level in levels(model):
        denoised, noisy = _denoise(model, images, first, runtime, level=level, purpose="show")
        rows += [(f"t = {level}", noisy), ("denoised", denoised)]
    return rows


def _denoise(
    model: DiffusionModel, images: Tensor, positions: Tensor, runtime: Runtime, *, level: int, purpose: str
) -> tuple[Tensor, Tensor]:
    """One DDIM step from ``level`` to 0: (denoised, noisy), uint8."""
    timesteps = segment(level, 1)
    clean = model.fold(to_signed(images.to(runtime.device)))
    noise = Noise(runtime, f"diffusion/{purpose} {level}", positions, clean.shape[1:])
    noisy = add_noise(clean, noise(), model.alphas_cumprod[timesteps[0]])
    with runtime.autocast():
        state = SAMPLERS["ddim"](model, noisy.contiguous(), timesteps, noise)[-1]
    return from_signed(model.unfold(state)).cpu(), from_signed(model.unfold(noisy)).cpu()
