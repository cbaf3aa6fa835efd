"""DiffPure (Nie et al. 2022) with the project's own diffusion model: every query is noised and denoised.

The strength is the diffusion step up to which it is noised; one evaluation of the network denoises it (DDIM).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hallmark.diffusion import samplers
from hallmark.errors import UserError
from hallmark.evasion._evasion import Evasion, Means, Range

RANGE = Range(1.0, 150.0, whole=True)


def prepare(means: Means, strength: float) -> Evasion:
    """A round of purification (:func:`hallmark.diffusion.samplers.round_trip`); its noise depends on an image's place.

    Raises:
        UserError: the thief has no diffusion model, one of other images, or of fewer steps.
    """
    model, start = means.diffusion, round(strength)
    if model is None:
        raise UserError("diffpure: wants a diffusion model; give its folder")
    calls = iter(range(1 << 62))

    def queries(images: Tensor) -> Tensor:
        c, h, w = images.shape[1:]
        samplers.check(model, (c, h, w), start, "diffpure")
        purpose, runtime = f"evasion/diffpure {next(calls)}", means.runtime
        found = [
            samplers.round_trip(
                model,
                part.to(runtime.device),
                place,
                runtime,
                start=start,
                sampler="ddim",
                steps=1,
                keep=1,
                purpose=purpose,
            )[:, 0].cpu()
            for part, place in zip(
                images.split(samplers.CHUNK), torch.arange(len(images)).split(samplers.CHUNK), strict=True
            )
        ]
        return torch.cat(found)

    return Evasion(queries)
