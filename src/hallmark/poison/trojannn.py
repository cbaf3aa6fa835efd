"""TrojanNN (Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang 2018): a patch that is made to excite one neuron.

The paper retrains a given model with the patch; here the attacker makes it with a classifier of his own and puts
it into the data.  The victim's network has other neurons, so the patch is learnt as any other is: what is left of the
attack's advantage is a patch of strong features.

The paper takes the neuron with the largest sum of |weights| from the layer before it (their section 4.1), which is
easily excited.  Here it is the one with the largest sum of |weights| *into the classes*, which has the most to say:
the penultimate units of most networks come from a pooling layer, which has no weights.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hallmark import config as hallmark_config
from hallmark.config import Count, PoisonData, Positive
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.poison import Poisoned, Surrogate, deliver, surrogate
from hallmark.poison._gradient import optimise
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all", "clean")


class Params(hallmark_config.Params):
    """Block ``trojannn``; the paper's masks cover 4-10 % of an image, here a square in a corner; else all is ours."""

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.04
    """Share of the image that the square covers."""
    steps: Count = 60
    batch_size: Count = 64
    lr: Positive = 0.1
    surrogate: Surrogate = Surrogate()


def neuron(network: Network) -> int:
    """The penultimate unit with the largest sum of |weights| into the classes.

    Raises:
        ValueError: the network's head has no linear layer.
    """
    layers = [layer for layer in network.head.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError("trojannn: the surrogate's head has no linear layer")
    return int(layers[0].weight.abs().sum(0).argmax())


def square(shape: tuple[int, int, int], share: float) -> int:
    """Side of the square in pixels.

    Raises:
        UserError: not a single pixel.
    """
    side = round((share * shape[1] * shape[2]) ** 0.5)
    if side < 1:
        raise UserError(f"poison_data.trojannn.share: {share:g} of {shape[2]}x{shape[1]} is no pixel; raise it")
    return min(side, *shape[1:])


def patch(network: Network, images: Tensor, params: Params, runtime: Runtime) -> Tensor:
    """The pixels that excite the chosen neuron most, over random images: uint8 ``[C, S, S]``.

    Args:
        network: in eval mode.
        images: uint8 ``[N, C, H, W]``.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    side, unit = square(shape, params.share), neuron(network)

    def loss(batch: Tensor, pattern: Tensor) -> Tensor:
        marked = batch.clone()
        marked[:, :, -side:, -side:] = pattern
        return -network.features(marked)[:, unit].float().mean()

    start = torch.rand(shape[0], side, side, generator=runtime.generator("poison_data/trojannn/start"))
    pattern = optimise(
        start,
        loss,
        images,
        lr=params.lr,
        steps=params.steps,
        batch_size=params.batch_size,
        project=lambda p: p.clamp(0, 1),
        runtime=runtime,
        purpose="poison_data/trojannn",
    )
    return (255 * pattern).round().to(torch.uint8)


def trigger(images: Tensor, pixels: Tensor) -> Tensor:
    """``images`` (uint8 ``[N, C, H, W]``) with the patch (uint8 ``[C, S, S]``) bottom right."""
    out = images.clone()
    out[:, :, -pixels.shape[1] :, -pixels.shape[2] :] = pixels
    return out


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """The patch on the images that the label mode wants: see :func:`hallmark.poison.deliver`."""
    network = surrogate(train, params.surrogate, runtime, "trojannn")
    pixels = patch(network, train.images, params, runtime)
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=lambda images: trigger(images, pixels))
