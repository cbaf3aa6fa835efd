"""STRIP (Gao, Xu, Wang, Chen, Ranasinghe, Nepal 2019), which guards a model's inputs, as a filter of its training set.

An image is blended with many others; the trigger survives that, so that the suspect model's answers stay the same:
low entropy.  The threshold is the quantile of trusted images' entropies (section IV-C) that costs ``frr`` of them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from hallmark import models
from hallmark.config import Count
from hallmark.config import Params as _Params
from hallmark.outliers import blended_entropy
from hallmark.progress import progress
from hallmark.purify.result import Findings, Material
from hallmark.purify.subspace import simple_findings


class Params(_Params):
    """Block ``strip``; the paper blends with 100 images at a false-rejection rate of 1 %."""

    blends: Count = 100
    """Trusted images that each image is blended with."""
    weight: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of the image itself, its partner has the rest; null: both in full, which saturates, as in the paper."""
    frr: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Share of the trusted images below the threshold."""


def _entropy(material: Material, images: Tensor, params: Params, purpose: str) -> Tensor:
    """The entropy of ``images`` (uint8 ``[N, C, H, W]``) under blending with trusted ones, float ``[N]``."""
    generator = material.runtime.generator(f"purify/strip/{purpose}")
    with progress(len(images), f"strip: {purpose}") as advance:
        return blended_entropy(
            lambda mixed: models.probabilities(material.suspect, mixed, material.runtime),
            images,
            material.reserve.images,
            blends=params.blends,
            weight=params.weight,
            generator=generator,
            advance=advance,
        )


def detect(material: Material, params: Params) -> Findings:
    """Flag images whose blends are classified with too little doubt."""
    given = _entropy(material, material.data.images, params, "given")
    trusted = _entropy(material, material.reserve.images, params, "trusted")
    threshold = trusted.double().quantile(params.frr)
    return simple_findings(
        given < threshold,
        -given,
        "its class survives blending with other images",
        metrics={"entropy_threshold": float(threshold), "entropy_trusted": float(trusted.mean())},
    )
