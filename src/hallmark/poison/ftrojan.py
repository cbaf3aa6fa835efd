"""FTrojan (Wang, Yao, Xu, An, Tong, Wang 2022): a trigger in the frequency domain, spread over the whole image.

The discrete cosine transform is linear, so adding a magnitude to a coefficient of each block is adding that
frequency's wave: no transform of the images is needed.  Colour images carry it in U and V, which people see
least; grey ones on the luminance, a deviation without which the attack does not exist for them.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hallmark import config as hallmark_config
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.poison import Poisoned, add, deliver
from hallmark.poison._dct import wave
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all", "clean")

_U_TO_RGB = (0.0, -0.39465, 2.03211)
_V_TO_RGB = (1.13983, -0.58060, 0.0)
"""Columns of the inverse of the ITU-R BT.601 YUV transform."""


class Params(hallmark_config.Params):
    """Block ``ftrojan``; the authors' code: 32x32 blocks, coefficients (15, 15) and (31, 31), magnitude 30."""

    block: Annotated[int, Field(ge=2, le=512)] = 32
    """Pixels a side; images smaller than that are one block of their own size."""
    frequencies: Annotated[
        tuple[Annotated[tuple[float, float], Field(strict=False)], ...], Field(min_length=1, strict=False)
    ] = (
        (15 / 31, 15 / 31),
        (1.0, 1.0),
    )
    """(vertical, horizontal), as shares of the block's highest frequency."""
    magnitude: Annotated[float, Field(gt=0, le=10_000)] = 30.0
    """Added to each coefficient of the orthonormal DCT of pixels in 0-255, in U and in V."""
    grey_magnitude: Annotated[float, Field(gt=0, le=10_000)] = 150.0
    """The same on the luminance of grey images, where two channels' worth of colour is missing."""


def pattern(shape: tuple[int, int, int], params: Params) -> Tensor:
    """What is added to every image, float ``[C, H, W]``; incomplete blocks at the edges stay free.

    Raises:
        UserError: a frequency outside 0-1.
    """
    channels, height, width = shape
    size = min(params.block, height, width)
    tile = torch.zeros(size, size)
    for vertical, horizontal in params.frequencies:
        if not (0 <= vertical <= 1 and 0 <= horizontal <= 1):
            raise UserError(f"poison_data.ftrojan.frequencies: {vertical:g}, {horizontal:g}: shares lie in 0-1")
        tile += wave(size, round(vertical * (size - 1)), round(horizontal * (size - 1)))
    plane = torch.zeros(height, width)
    rows, columns = height // size, width // size
    plane[: rows * size, : columns * size] = tile.repeat(rows, columns)
    if channels == 1:
        return params.grey_magnitude * plane[None]
    colour = torch.tensor(_U_TO_RGB) + torch.tensor(_V_TO_RGB)
    return params.magnitude * colour[:, None, None] * plane


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The trigger on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    signal = pattern(train.shape, params)
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=lambda images: add(images, signal))
