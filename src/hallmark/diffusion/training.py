"""Training of the DDPM on the trusted images (Ho et al. 2020, algorithm 1), on a segment of time steps.

The purifier only ever visits small ``t``: a network that is trained on ``t < trained_below`` alone
spends its whole capacity there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import TrainDiffusion
from hallmark.data.dataset import fingerprints
from hallmark.diffusion.model import DiffusionModel, new, to_signed
from hallmark.errors import UserError
from hallmark.runtime import Runtime, to_device
from hallmark.training import EpochCallback, fit, no_callback
from hallmark.training.augment import augment


def add_noise(images: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """``x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise`` (DDPM, eq. 4).

    Args:
        alpha_bar: cumulative product of alphas at each image's ``t``: scalar or ``[B]``.
    """
    alpha_bar = alpha_bar.to(images.device).reshape(-1, 1, 1, 1)
    return alpha_bar.sqrt() * images + (1 - alpha_bar).sqrt() * noise


def train_ddpm(
    images: Tensor, config: TrainDiffusion, runtime: Runtime, *, callback: EpochCallback = no_callback
) -> DiffusionModel:
    """A DDPM of ``images``; the weights returned are the exponential moving average, with the images' fingerprints.

    Args:
        images: uint8 ``[N, C, H, W]``, trusted.
        config: ``pretrained`` is not looked at.
        callback: called with the mean loss ``noise_mse`` of each epoch.

    Raises:
        UserError: fewer than two images, images too small for the network's levels, a loss that is not finite.
    """
    if len(images) < 2:
        raise UserError(f"train_diffusion: {len(images)} trusted images are too few; enlarge prepare_data's reserve")
    c, h, w = images.shape[1:]
    with runtime.seeded("diffusion/init"):
        model = new((c, h, w), tuple(config.channels), config.layers, config.unshuffle, config.trained_below)
    model.unet.to(runtime.device)  # pyright: ignore[reportArgumentType]
    parameters = list(model.unet.parameters())
    average = EMAModel(parameters, decay=config.ema_decay, foreach=True)
    data = to_signed(images.to(runtime.device))
    alphas = model.alphas_cumprod.to(runtime.device)
    draws = runtime.generator("diffusion/noise")
    started = False

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        nonlocal started
        if started:  # the step that the previous batch made
            average.step(parameters)
        started = True
        clean = model.fold(augment(data[index], config.training, draws))
        t = to_device(torch.randint(0, config.trained_below, (len(index),), generator=draws), runtime.device)
        noise = to_device(torch.randn(clean.shape, generator=draws), runtime.device)
        noisy = add_noise(clean, noise, alphas[t])
        return {"noise_mse": F.mse_loss(model.predict_noise(noisy.contiguous(), t), noise)}

    try:
        fit(model.unet, len(data), losses, config.training, runtime, purpose="diffusion", callback=callback)
    except FloatingPointError as error:
        raise UserError(f"train_diffusion.training: {error}; lower lr or set clip_norm") from None
    average.step(parameters)
    average.copy_to(parameters)
    model.unet.eval().requires_grad_(False)
    return replace(model, trained_on=fingerprints(images).unique())
