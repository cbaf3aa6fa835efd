"""A small convolutional autoencoder whose answers are the same bytes on every machine.

A key's questions are compared by the hashes of their images, on the judge's machine as well as on the owner's.  A
float network gives other last digits with other processors, threads or batch sizes.  This one, when it is not being
trained, computes without any rounding error between its layers' ends: weights are multiples of 2^-24 (fp16, at most 8
in size), activations are put on a grid of 2^-10 after each layer (at most 64 in size), so every product is a multiple
of 2^-34, and the sum of the at most 144 products and a bias of one output stays below 2^19: it has at most 53 binary
digits, which float64 holds exactly, whatever the order of summation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_WEIGHT = 8.0
_LARGEST_ACTIVATION = 64.0
_GRID = 1024
_FOLD = 4
"""The latent has a quarter of the image's height and width."""

Layers = Sequence[tuple[Tensor, Tensor]]
"""Weight ``[O, I, k, k]`` and bias ``[O]`` of the four convolutions, two of the encoder and two of the decoder."""


def shapes(channels: int, width: int, latent: int) -> list[tuple[int, int, int]]:
    """(outputs, inputs, kernel) of the four convolutions for images of ``channels``."""
    return [
        (width, 4 * channels, 3),
        (latent, 4 * width, 1),
        (4 * width, latent, 3),
        (4 * channels, width, 3),
    ]


def count(channels: int, width: int, latent: int) -> int:
    """Number of parameters."""
    return sum(outputs * (inputs * kernel**2 + 1) for outputs, inputs, kernel in shapes(channels, width, latent))


class Coder(nn.Module):
    """The autoencoder while it is trained; initialised from the global generator."""

    def __init__(self, channels: int, width: int, latent: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel) for outputs, inputs, kernel in shapes(channels, width, latent)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of float images ``[B, C, H, W]`` in 0-1, H and W multiples of 4; not clamped."""
        layers = [(layer.weight, layer.bias) for layer in self.convolutions]
        return decode(layers, encode(layers, x))  # pyright: ignore[reportArgumentType]


def padded(images: Tensor) -> Tensor:
    """Repeat the last row and column until height and width are multiples of 4."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % _FOLD, 0, -height % _FOLD), mode="replicate")


def encode(layers: Layers, x: Tensor, snap: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """The latent ``[B, L, H/4, W/4]`` of images ``[B, C, H, W]``.

    Args:
        snap: applied after each layer.
    """
    x = snap(F.relu(F.conv2d(F.pixel_unshuffle(x, 2), *layers[0], padding=1)))
    return snap(F.conv2d(F.pixel_unshuffle(x, 2), *layers[1]))


def decode(layers: Layers, latent: Tensor, snap: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Images ``[B, C, H, W]`` of what :func:`encode` gave."""
    x = snap(F.relu(F.conv2d(latent, *layers[2], padding=1)))
    return F.pixel_shuffle(snap(F.conv2d(F.pixel_shuffle(x, 2), *layers[3], padding=1)), 2)


def blend(layers: Layers, first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """Decode ``alpha`` times the latents of ``first`` plus ``1 - alpha`` times those of ``second``, exactly.

    Args:
        layers: float64, from :func:`unpack`.
        first, second: float64 ``[B, C, H, W]`` in 0-1, any height and width.

    Returns:
        float64 ``[B, C, H, W]`` in 0-1, multiples of 1/1024.
    """
    height, width = first.shape[2:]
    # Without cuDNN a convolution is a plain matrix product; its transforms (FFT, Winograd) would round.
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False), torch.backends.cudnn.flags(enabled=False):
        one, other = (encode(layers, snap(padded(images)), snap) for images in (first, second))
        mixed = decode(layers, snap(alpha * one + (1 - alpha) * other), snap)
    return mixed[:, :, :height, :width].clamp(0, 1)


def snap(x: Tensor) -> Tensor:
    """Onto the grid, within its bounds."""
    return (x * _GRID).round().div(_GRID).clamp(-_LARGEST_ACTIVATION, _LARGEST_ACTIVATION)


def pack(network: Coder) -> str:
    """All parameters as little-endian fp16 in base64, in the order of ``network.parameters()``."""
    vector = torch.cat([p.detach().flatten() for p in network.parameters()]).float().cpu()
    return base64.b64encode(vector.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT).numpy().astype("<f2").tobytes()).decode()


def numbers(text: str, largest: int) -> np.ndarray:
    """The parameters in what :func:`pack` wrote: float16 ``[N]``.

    Raises:
        ValueError: more than ``largest`` of them, not base64 or not whole numbers, or one that is not finite or
            larger than :data:`LARGEST_WEIGHT`.
    """
    if len(text) > 4 * -(-2 * largest // 3):
        raise ValueError(f"are {len(text):,} characters, too many for {largest:,} parameters")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("are not base64") from None
    if base64.b64encode(data).decode() != text:  # unused bits set: two texts would mean the same weights
        raise ValueError("are not base64 in its usual form")
    if len(data) % 2:
        raise ValueError(f"are {len(data):,} bytes, no whole number of fp16 numbers")
    vector = np.frombuffer(data, dtype="<f2")
    if not (np.isfinite(vector).all() and np.abs(vector).max(initial=0) <= LARGEST_WEIGHT):
        raise ValueError(f"hold a number that is not finite, or larger than {LARGEST_WEIGHT:g}")
    return vector


def unpack(vector: np.ndarray, channels: int, width: int, latent: int, device: torch.device) -> Layers:
    """The layers that ``vector`` ``[count(...)]`` describes, float64."""
    rest = torch.from_numpy(vector.astype(np.float64)).to(device)
    layers = []
    for outputs, inputs, kernel in shapes(channels, width, latent):
        weight, bias, rest = rest.split([size := outputs * inputs * kernel**2, outputs, len(rest) - size - outputs])
        layers.append((weight.view(outputs, inputs, kernel, kernel), bias))
    return layers
