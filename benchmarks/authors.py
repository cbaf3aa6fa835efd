"""Purification as the authors' released code handles its images, for the benchmark of speed.

All images go through all rounds, and every kept state becomes a PIL image.  Images are denoised and classified in
batches, as there; pictures are converted, and SSIM is computed on the CPU, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from clock import Arm, Clock
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Rounds
from hallmark.diffusion.model import DiffusionModel, from_signed
from hallmark.diffusion.samplers import CHUNK, SAMPLERS, segment
from hallmark.diffusion.training import add_noise
from hallmark.models import Network
from hallmark.purify import selection
from hallmark.purify.result import Material
from hallmark.runtime import Runtime

IMAGES_AT_ONCE = 10
"""Whose candidates, 51 each, are one batch of the classifier."""


def one_by_one(
    name: str, material: Material, rounds: Rounds, rows: Tensor, *, timed: int, share: float, percentile: float
) -> Arm:
    """Purify ``material.data`` and choose a copy for ``rows``.

    Args:
        rounds: how; ``timed`` of the rounds are run, which divides their number: all cost the same.
        rows: int64, the flagged images: only their distances are computed.
        share: of the flagged ones in a large set.
    """
    runtime, clock, scale = material.runtime, Clock(material.runtime.device), rounds.rounds // timed
    pictures = [[to_pil(image)] for image in material.data.images]
    draws = runtime.generator("benchmark/one by one")
    with clock.watching(material.purifier.model.unet):
        for _ in range(timed):
            for begin in range(0, len(pictures), CHUNK):
                part = pictures[begin : begin + CHUNK]
                one_round(part, material.purifier.model, rounds, runtime, clock=clock, draws=draws)
    steps = {key: value * scale / len(pictures) for key, value in clock.seconds.items()}
    pictures = [[own[0], *own[1:] * scale] for own in pictures]
    with clock.timing("classification"):
        for begin in range(0, len(pictures), IMAGES_AT_ONCE):
            part = [picture for own in pictures[begin : begin + IMAGES_AT_ONCE] for picture in own]
            models.logits(material.suspect, torch.stack([from_pil(picture) for picture in part]), runtime).argmax(1)
    with clock.timing("selection"):
        for row in rows.tolist():
            choose(pictures[row], material.suspect, runtime, percentile)
    steps["classification"] = clock.seconds["classification"] / len(pictures)
    steps["selection"] = clock.seconds["selection"] * share / len(rows)
    return Arm(name, rounds.rounds * rounds.steps, steps)


@torch.no_grad()
def one_round(
    pictures: Sequence[list[Image.Image]],
    model: DiffusionModel,
    rounds: Rounds,
    runtime: Runtime,
    *,
    clock: Clock,
    draws: torch.Generator,
) -> None:
    """Noise and denoise the last picture of each image, and append the kept states."""
    timesteps = segment(rounds.start, rounds.steps)
    with clock.timing("pictures"):
        images = torch.stack([from_pil(own[-1]) for own in pictures])
    with clock.timing("diffusion"):
        clean = model.fold(images.to(runtime.device) * 2 - 1)

        def noise() -> Tensor:
            return torch.randn(clean.shape, generator=draws).to(runtime.device)

        noisy = add_noise(clean, noise(), model.alphas_cumprod[timesteps[0]])
        with runtime.autocast():
            states = SAMPLERS[rounds.sampler](model, noisy.contiguous(), timesteps, noise)
    with clock.timing("pictures"):
        for state in states[-rounds.keep :]:
            for own, image in zip(pictures, from_signed(model.unfold(state)).cpu(), strict=True):
                own.append(to_pil(image))


def choose(pictures: Sequence[Image.Image], network: Network, runtime: Runtime, percentile: float) -> int:
    """The number of the picture chosen of one image's, the raw one first."""
    distance = distances(pictures, network, runtime)
    order = np.argsort(distance, kind="stable")
    return int(order[min(int(percentile * len(order)), len(order) - 1)])


def distances(pictures: Sequence[Image.Image], network: Network, runtime: Runtime) -> list[float]:
    """Of each picture from the first, by SSIM and by the cosine of the network's features."""
    features = models.features(network, torch.stack([from_pil(picture) for picture in pictures]), runtime)
    found = []
    for picture, own in zip(pictures, features, strict=True):
        similarity = float(selection.ssim(from_pil(pictures[0])[None], from_pil(picture)[None])[0])
        cosine = float(F.cosine_similarity(features[0], own, dim=0))
        found.append(0.5 * (1 - (similarity + 1) / 2) + 0.5 * (1 - (cosine + 1) / 2))
    return found


def to_pil(image: Tensor) -> Image.Image:
    """uint8 ``[C, H, W]`` to a picture."""
    values = image.permute(1, 2, 0).numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def from_pil(picture: Image.Image) -> Tensor:
    """A picture to float 0-1 ``[C, H, W]``, as torchvision's ToTensor does."""
    values = torch.from_numpy(np.array(picture))
    return (values[..., None] if values.dim() == 2 else values).permute(2, 0, 1).float() / 255
