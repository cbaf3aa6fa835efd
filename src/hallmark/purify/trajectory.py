"""Step 1 of DataElixir: chained rounds of forward and reverse diffusion, with intermediates."""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.diffusion.model import DiffusionModel
from hallmark.diffusion.samplers import round_trip
from hallmark.progress import progress
from hallmark.runtime import Runtime


def trajectory(
    model: DiffusionModel,
    images: Tensor,
    runtime: Runtime,
    *,
    start: int,
    rounds: int,
    sampler: str,
    steps: int,
    keep: int,
    purpose: str,
) -> Tensor:
    """Noise and denoise ``rounds`` times, each round beginning with the image that the last one ended with.

    Args:
        images: uint8 ``[N, C, H, W]``.
        start: T, the step up to which an image is noised.
        steps: network evaluations a round; for ``ancestral`` normally equal to ``start``.
        keep: m, the last so many states of each round are kept (at most ``steps``).
        purpose: names the noise; the noise of an image depends on it, the seed, the round and its index.

    Returns:
        uint8 ``[N, rounds, keep, C, H, W]``; ``[:, r, -1]`` is the end of round ``r``.
    """
    keep = min(keep, steps)
    states = torch.empty((len(images), rounds, keep, *images.shape[1:]), dtype=torch.uint8)
    current = images
    with progress(rounds * len(images), f"{purpose}: rounds") as advance:
        for r in range(rounds):
            states[:, r] = round_trip(
                model,
                current,
                runtime,
                start=start,
                sampler=sampler,
                steps=steps,
                keep=keep,
                purpose=f"{purpose}/round {r}",
                advance=advance,
            )
            current = states[:, r, -1]
    return states
