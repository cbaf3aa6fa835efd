"""Entangled watermark: the watermark's representations are entangled with those of the target class.

Jia, Choquette-Choo, Chandrasekaran, Papernot, "Entangled Watermarks as a Defense against Model Extraction", USENIX
Security 2021.  Watermark samples are images of a source class with a white square, called the target.  First the
task is learnt.  The square is put where the gradient of the soft nearest neighbour loss (:mod:`._snnl`) between source
and target images is greatest (algorithm 1).  Then ``ratio`` batches of the task alternate with one of watermark and
target images, half and half, all called the target, with the loss

    cross-entropy - entanglement * sum over layers of SNNL(layer, watermark or target, T_layer)     (equation 3)

and the temperatures T_layer are learnt by gradient descent on the SNNL.  ``entanglement`` is the weight of the authors'
code for MNIST, 32 against a cross-entropy summed over 512 images; for Fashion-MNIST it is 0.25 (summed over 128).
There the second part has two batches of the task for each of the watermark and lasts until the latter are as many as
the batches of the first part; and its watermark samples are not these: an image of another data set (a digit 8) called
a T-shirt, without any square.

Deviations: the watermark samples are not refined further by gradient steps of their own pixels, so that fresh queries
can be made of held-out images by a suspect's judge; the layers are the last three with weights; a layer's first
temperature is ``temperature`` times the mean squared distance there (the authors': a constant), and its logarithm is
what is learnt; the learning rate's schedule starts anew with the second part.  From the released code, which puts the
square where the summed gradient is *least* and has 1e-5 in the SNNL's ratio and logarithm, which bounds it: here the
greatest sum decides, as in the algorithm, and nothing bounds the loss; its distance is the cosine, here the squared
Euclidean one, as in equation 1.

Negatives are the same source images without the square; plain images are all of the source class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import config
from hallmark.config import ClassLabel, Count, NonNegative, Positive
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, fit, no_callback, train_classifier
from hallmark.training.augment import augment
from hallmark.watermark.schemes import Queries
from hallmark.watermark.schemes._layers import tapped
from hallmark.watermark.schemes._shared import ShapedMark, in_turn
from hallmark.watermark.schemes._snnl import snnl, squared_distances

PROBE = 256
"""Images of each of the two classes on which the place of the square is chosen."""


class Params(config.Params):
    """Block of the scheme ``entangled``."""

    source: ClassLabel
    """The class whose images get the square."""
    target: ClassLabel
    """What they are called then."""
    size: Annotated[int, Field(ge=1, le=64)] = 3
    """Of the square, pixels a side."""
    epochs: Count = 4
    """Of the second part, after those of the task alone; an epoch has every image of the task once."""
    ratio: Count = 2
    """Batches of the task for each of the watermark."""
    entanglement: NonNegative = 0.0625
    temperature: Positive = 1.0
    temperature_lr: NonNegative = 0.1
    """Of the gradient descent on the temperatures' logarithms."""

    @model_validator(mode="after")
    def _two_classes(self) -> Params:
        if self.source == self.target:
            raise ValueError(f"target: '{self.target}' is the source class; choose another class")
        return self


class Mark(ShapedMark):
    """The secret: which class with a square where is called what."""

    source: Annotated[int, Field(ge=0)]
    target: Annotated[int, Field(ge=0)]
    top: Annotated[int, Field(ge=0)]
    left: Annotated[int, Field(ge=0)]
    size: Count

    def triggered(self, images: Tensor) -> Tensor:
        """A copy of ``[N, C, H, W]`` (uint8, or float in 0-1) with the square, white."""
        images = images.clone()
        white = 255 if images.dtype == torch.uint8 else 1
        images[:, :, self.top : self.top + self.size, self.left : self.left + self.size] = white
        return images

    def queries(self, data: ImageDataset, count: int, generator: torch.Generator) -> Queries:
        """See :class:`hallmark.watermark.schemes.Mark`: each image of the source class at most once."""
        self.check(data)
        plain = data.of_class(self.source)
        if not len(plain):
            raise UserError(f"the data have no image of the mark's source class {self.source}; give more images")
        chosen = plain[torch.randperm(len(plain), generator=generator)[:count]]
        target, all_plain = (torch.full((n,), self.target) for n in (len(chosen), len(plain)))
        return Queries(self.triggered(chosen), target, chosen, target, plain, all_plain)


read_mark = Mark.read
"""See :mod:`hallmark.watermark.schemes`."""


def strike(
    network: Network,
    data: ImageDataset,
    params: Params,
    training: config.Training,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
) -> Mark:
    """See :mod:`hallmark.watermark.schemes`; the epochs of the second part are counted on.

    The callback's means are over all steps there, also those that do not have the loss.

    Raises:
        UserError: unknown classes, too few images of one, or a square larger than an image.
    """
    source, target = (data.class_index(getattr(params, name), name) for name in ("source", "target"))
    images, labels = data.images.to(runtime.device), data.labels.to(runtime.device)
    of = {label: (labels == label).nonzero()[:, 0] for label in (source, target)}
    if source == target or min(map(len, of.values())) < 2:
        raise UserError("source, target: wants two different classes of at least two images each; choose others")
    if params.size > min(data.shape[1:]):
        raise UserError(f"size: a square of {params.size} pixels does not fit into images of {data.shape[1:]}")
    train_classifier(network, images, labels, training, runtime, purpose=purpose, callback=callback)
    top, left = place(network, images[of[source][:PROBE]], images[of[target][:PROBE]], params, runtime)
    mark = Mark(
        source=source,
        target=target,
        top=top,
        left=left,
        size=params.size,
        classes=len(data.classes),
        shape=data.shape,
    )
    half = max(training.batch_size // 2, 2)
    sources = in_turn(len(of[source]), half, runtime.generator(f"{purpose}/source"))
    targets = in_turn(len(of[target]), half, runtime.generator(f"{purpose}/target"))
    batches = in_turn(len(images), training.batch_size, runtime.generator(f"{purpose}/second order"))
    augmentation = runtime.generator(f"{purpose}/second augment")
    groups = (torch.arange(2 * half) < half).to(runtime.device)
    called = torch.full((2 * half,), target, device=runtime.device)
    temperatures = Temperatures(params)
    step = 0

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        # The loop's index only sets the pace: with the task's own order no image is lost to a watermark's step.
        nonlocal step
        step += 1
        if step % (params.ratio + 1):
            chosen = next(batches).to(runtime.device)
            x = augment(to_float(images[chosen]), training, augmentation)
            return {"utility": F.cross_entropy(network(x).float(), labels[chosen])}
        marked = mark.triggered(images[of[source][next(sources).to(runtime.device)]])
        x = to_float(torch.cat([marked, images[of[target][next(targets).to(runtime.device)]]]))
        with tapped(network) as layers:
            outputs = network(x.contiguous(memory_format=torch.channels_last)).float()
        return {"verification": F.cross_entropy(outputs, called), "snnl": temperatures.snnl(layers, groups)}

    # As many steps as the task's batches and the watermark's are together.
    count = math.ceil(len(images) * (params.ratio + 1) / params.ratio)
    second = training.model_copy(update={"epochs": params.epochs})
    fit(
        network,
        count,
        losses,
        second,
        runtime,
        purpose=f"{purpose}/second",
        combine=temperatures.combine,
        callback=lambda epoch, means: callback(training.epochs + epoch, means),
    )
    return mark


class Temperatures:
    """The layers' temperatures, learnt while the network is."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.logarithms: Tensor | None = None

    def snnl(self, layers: list[Tensor], groups: Tensor) -> Tensor:
        """The sum over layers of their SNNL at their temperatures; sets the temperatures at the first call."""
        if self.logarithms is None:
            means = torch.stack([squared_distances(layer.detach()).mean() for layer in layers]).clamp_min(1e-12)
            self.logarithms = (self.params.temperature * means).log().requires_grad_()
        each = zip(layers, self.logarithms.exp(), strict=True)
        return torch.stack([snnl(layer, groups, temperature) for layer, temperature in each]).sum()

    def combine(self, losses: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> None:
        """A :data:`hallmark.training.Combine`: the network ascends the SNNL, the temperatures descend it."""
        weight = self.params.entanglement
        signs = {"snnl": -weight}
        torch.stack([signs.get(name, 1.0) * loss for name, loss in losses.items()]).sum().backward()
        if self.logarithms is not None and self.logarithms.grad is not None:
            if weight:
                with torch.no_grad():
                    self.logarithms += self.params.temperature_lr * self.logarithms.grad / weight
            self.logarithms.grad = None


def place(network: Network, source: Tensor, target: Tensor, params: Params, runtime: Runtime) -> tuple[int, int]:
    """Top and left of the square: where brighter pixels of the source images raise the SNNL most.

    Args:
        source, target: uint8 ``[N, C, H, W]`` on the device.
    """
    network.eval()
    x = to_float(torch.cat([source, target])).contiguous(memory_format=torch.channels_last).requires_grad_()
    groups = (torch.arange(len(x)) < len(source)).to(x.device)
    with tapped(network) as layers, runtime.autocast():
        network(x)
    (gradient,) = torch.autograd.grad(Temperatures(params).snnl(layers, groups), x)
    mean = gradient[: len(source)].float().mean(0).sum(0)
    sums = F.avg_pool2d(mean[None, None].cpu(), params.size, 1)[0, 0]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1]
