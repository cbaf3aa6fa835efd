"""ISSBA, also SSBA (Li, Li, Wu, Li, He, Lyu 2021): an invisible trigger that differs from image to image.

An encoder hides a bit string in an image, a decoder reads it; trained together (as in StegaStamp, their section
4.2), the encoder's faint residual depends on the image.  A fixed string is the trigger.  The paper's encoder is a
U-Net with a perceptual loss, for 224x224; ours is small, its residual bounded, its loss mean squared error.  In small
images that alone gives nearly one pattern for all of them (docs/attacks.md).  So the decoder must not read the string
where a residual lies on *another* image, a loss of our own.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import config as hallmark_config
from hallmark.config import Count, NonNegative, PoisonData, Positive
from hallmark.data import ImageDataset
from hallmark.data.dataset import to_float
from hallmark.poison import Poisoned, deliver
from hallmark.poison._generators import Painter, Reader, paint
from hallmark.poison._gradient import batches
from hallmark.progress import progress
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all")


class Params(hallmark_config.Params):
    """Block ``issba``; sizes are ours, for small images, and as short a training as hides the string well."""

    bits: Annotated[int, Field(ge=1, le=256)] = 4
    """Length of the hidden string; the paper hides 100 bits in 224x224 pixels, which are 64 times as many."""
    eps: Annotated[float, Field(gt=0, le=255)] = 32.0
    """Bound of the residual, in grey levels of 255."""
    fidelity: NonNegative = 0.2
    """Weight of the residual's mean square (in units of eps) against the bits' cross-entropy; it is 0 in the first
    half of the training and then rises, as in StegaStamp: else nothing is hidden at all."""
    specific: NonNegative = 1.0
    """Weight of the cross-entropy of what is read from another image's residual against a coin's 1/2."""
    width: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 16
    steps: Count = 600
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: Positive = 0.002


class Encoder(nn.Module):
    """Hides bits in images."""

    def __init__(self, channels: int, params: Params) -> None:
        super().__init__()
        self.bound = params.eps / 255
        self.painter = Painter(channels + params.bits, channels, params.width)

    def residual(self, images: Tensor, bits: Tensor) -> Tensor:
        """What is added to ``images`` (float ``[B, C, H, W]`` in 0-1) to hide ``bits`` (float ``[B, L]`` of 0, 1)."""
        planes = (2 * bits - 1)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return self.bound * torch.tanh(self.painter(torch.cat([images, planes], 1)))

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        """The images with the bits in them, in 0-1."""
        return (images + self.residual(images, bits)).clamp(0, 1)


def train_pair(images: Tensor, params: Params, runtime: Runtime) -> tuple[Encoder, Reader]:
    """An encoder and its decoder, in eval mode.

    Args:
        images: uint8 ``[N, C, H, W]``.
    """
    with runtime.seeded("poison_data/issba"):
        encoder = Encoder(images.shape[1], params).to(runtime.device)
        decoder = Reader(images.shape[1], params.bits, params.width).to(runtime.device)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=params.lr)
    generator = runtime.generator("poison_data/issba/batches")
    size = min(params.batch_size, len(images))
    with progress(params.steps * size, "issba: encoder and decoder") as advance:
        for step, index in enumerate(batches(len(images), size, params.steps, generator)):
            batch = to_float(images[index].to(runtime.device))
            bits = torch.randint(0, 2, (size, params.bits), generator=generator).float().to(runtime.device)
            residual = encoder.residual(batch, bits)
            read = decoder((batch + residual).clamp(0, 1))
            cost = (residual / encoder.bound).square().mean()
            ramp = max(0.0, 2 * step / params.steps - 1)
            loss = F.binary_cross_entropy_with_logits(read, bits) + params.fidelity * ramp * cost
            if params.specific and size > 1:  # a single image has no other
                crossed = decoder((batch.roll(1, 0) + residual).clamp(0, 1))
                nothing = torch.full_like(crossed, 0.5)
                loss = loss + params.specific * F.binary_cross_entropy_with_logits(crossed, nothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            advance(size)
    return encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False)


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """A fixed hidden string on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    encoder, _ = train_pair(train.images, params, runtime)
    string = torch.randint(0, 2, (1, params.bits), generator=runtime.generator("poison_data/issba/string")).float()
    string = string.to(runtime.device)

    class Hide(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return encoder(images, string.expand(len(images), -1))

    hide = Hide()
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=lambda images: paint(hide, images, runtime))
