"""STRIP (Gao, Xu, Wang, Chen, Ranasinghe, Nepal 2019), which guards a model's inputs, as a filter of its training set.

An image is blended with many others; the trigger survives that, so that the suspect model's answers stay the same:
low entropy.  The threshold is the quantile of trusted images' entropies (section IV-C) that costs ``frr`` of them.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import models
from hallmark.config import Count
from hallmark.config import Params as _Params
from hallmark.progress import progress
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import simple_findings

_BATCH = 100


class Params(_Params):
    """Block ``strip``; the paper blends with 100 images at a false-rejection rate of 1 %."""

    blends: Count = 100
    """Trusted images that each image is blended with."""
    weight: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the image itself; the paper adds both at full weight, which saturates."""
    frr: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of the trusted images below the threshold."""


def entropy(probabilities: Tensor) -> Tensor:
    """Mean over the blends of -sum p log2 p, their equation 4: ``[B, M, K]`` to ``[B]``, in bits."""
    return -(probabilities * probabilities.clamp_min(1e-12).log2()).sum(2).mean(1)


def blended_entropy(material: Material, images: Tensor, params: Params, purpose: str) -> Tensor:
    """The entropy of ``images`` (uint8 ``[N, C, H, W]``) under blending with trusted ones, float ``[N]``."""
    partners, generator = material.reserve.images, material.runtime.generator(f"purify/strip/{purpose}")
    parts = []
    with progress(len(images), f"strip: {purpose}") as advance:
        for part in images.split(_BATCH):
            other = partners[torch.randint(len(partners), (len(part), params.blends), generator=generator)]
            mixed = params.weight * part[:, None].float() + (1 - params.weight) * other.float()
            answers = models.probabilities(
                material.suspect, mixed.round_().to(torch.uint8).flatten(0, 1), material.runtime
            )
            parts.append(entropy(answers.view(len(part), params.blends, -1)))
            advance(len(part))
    return torch.cat(parts)


def detect(material: Material, params: Params) -> Findings:
    """Flag images whose blends are classified with too little doubt."""
    given = blended_entropy(material, material.data.images, params, "given")
    trusted = blended_entropy(material, material.reserve.images, params, "trusted")
    threshold = trusted.double().quantile(params.frr)
    return simple_findings(
        given < threshold,
        -given,
        "its class survives blending with other images",
        metrics={"entropy_threshold": float(threshold), "entropy_trusted": float(trusted.mean())},
    )
