"""JPEG compression; the strength is 100 less the quality.

torchvision encodes and decodes image by image on the CPU: there is no batched encoder there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from hallmark.evasion._evasion import Evasion, Means, Range

RANGE = Range(0.0, 99.0, whole=True)


def prepare(means: Means, strength: float) -> Evasion:
    """Encoded at the quality and decoded again."""
    quality = 100 - round(strength)

    def queries(images: Tensor) -> Tensor:
        coded = [encode_jpeg(image, quality) for image in images]
        return torch.stack([decode_jpeg(each) for each in coded])  # pyright: ignore[reportArgumentType]

    return Evasion(queries)
