"""Blending in an autoencoder's latent space: way C2 of the paper.

The picture is decoded from alpha v(x_i) + (1 - alpha) v(x_j), v the encoder.  The paper names neither the autoencoder
nor its training; this one is a few thousand parameters, trained on the training images when the key is made.  The
key holds its weights, so that the queries can be made again from the key alone, and they are the same bytes on every
machine (see :mod:`hallmark.watermark.ways._coder`).  It is no way of evasion samples, which take no trained parameters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from hallmark import config, training
from hallmark.config import Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.runtime import Runtime
from hallmark.watermark.ways import _coder
from hallmark.watermark.ways._range import Share

_CHUNK = 64
"""Pairs at a time: bounds the memory; the result does not depend on it."""
_PURPOSE = "watermark/autoencoder"


class Params(config.Params):
    """The blend, the autoencoder's size, how it is trained, and what came of it."""

    alpha: Share = 0.5
    """Weight of the first image's latent."""
    width: Annotated[int, Field(ge=4, le=16)] = 12
    """Channels at half the image's height and width."""
    latent: Annotated[int, Field(ge=1, le=16)] = 8
    """Channels of the latent, at a quarter: 8 hold half as many numbers as a grey image, a sixth of a colour one's."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 50
    lr: config.Positive = 5.0e-3
    weights: str = ""
    """Trained parameters, fp16 in base64; empty: to be trained."""

    @model_validator(mode="after")
    def _sound_weights(self) -> Params:
        grey, colour = (_coder.count(channels, self.width, self.latent) for channels in (1, 3))
        try:
            found = len(_coder.numbers(self.weights, colour))
        except ValueError as error:
            raise ValueError(f"weights: {error}; take the key as it was written") from None
        if found not in (0, grey, colour):
            raise ValueError(
                f"weights: are {found:,} numbers where width {self.width} and latent {self.latent} want {grey:,} "
                f"for grey images or {colour:,} for colour; take the key as it was written"
            )
        return self


def combine(first: Tensor, second: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """See :mod:`hallmark.watermark.ways`.  uint8 images are rounded to nearest.

    Each picture depends on its own pair alone, not on the batch, the device or the number of threads.

    Raises:
        UserError: as :func:`check`.
    """
    channels, height, width = first.shape[1:]
    check(params, (channels, height, width))
    # Not all devices know float64.
    device = torch.device("cpu") if first.device.type == "mps" else first.device
    layers = _layers(params.weights, channels, params.width, params.latent, device)
    mixed = torch.empty_like(first)
    for start in range(0, len(first), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        one, other = (_unit(images[chunk].to(device)) for images in (first, second))
        blended = _coder.blend(layers, one, other, params.alpha)
        mixed[chunk] = (blended if first.is_floating_point() else (blended * 255).round()).to(first.device, first.dtype)
    return mixed


def prepare(params: Params, data: ImageDataset, runtime: Runtime) -> Params:
    """The parameters with the weights of an autoencoder trained on ``data`` to the least squared error.

    Weights that are there already are kept.

    Raises:
        UserError: those are not for images like ``data``'s.
    """
    if params.weights:
        check(params, data.shape)
        return params
    with runtime.seeded(f"{_PURPOSE}/initialisation"):
        network = _coder.Coder(data.shape[0], params.width, params.latent)
    network.to(runtime.device)
    images = data.images.to(runtime.device)

    def losses(index: Tensor) -> dict[str, Tensor]:
        x = _coder.padded(to_float(images[index]))
        return {"reconstruction": F.mse_loss(network(x).float(), x)}

    how = Training(epochs=params.epochs, batch_size=params.batch_size, lr=params.lr)
    training.fit(network, len(images), losses, how, runtime, purpose=_PURPOSE)
    return Params(**{**params.model_dump(), "weights": _coder.pack(network)})


def check(params: Params, shape: tuple[int, int, int]) -> None:
    """Raises UserError: not trained, or trained on images with another number of channels."""
    if not params.weights:
        raise UserError("the autoencoder is not trained; watermark-contest trains it when it makes a key")
    wanted = _coder.count(shape[0], params.width, params.latent)
    most = _coder.count(3, params.width, params.latent)
    if (found := len(_coder.numbers(params.weights, most))) != wanted:
        raise UserError(f"weights: are {found:,} numbers where images of {shape[0]} channels want {wanted:,}")


def family(params: Params) -> frozenset[str]:
    """See :mod:`hallmark.watermark.ways`: a small network's blends are nearly blurred means of the pixels."""
    return frozenset({"pixel blend"})


@lru_cache(maxsize=8)
def _layers(weights: str, channels: int, width: int, latent: int, device: torch.device) -> _coder.Layers:
    """Unpacked once, not for every batch."""
    vector = _coder.numbers(weights, _coder.count(channels, width, latent))
    return _coder.unpack(vector, channels, width, latent, device)


def _unit(images: Tensor) -> Tensor:
    """float64 in 0-1."""
    return images.double() if images.is_floating_point() else images.double() / 255
