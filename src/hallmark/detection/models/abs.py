"""ABS, artificial brain stimulation (Liu, Lee, Tao, Ma, Aafer, Zhang, CCS 2019): inner channels that force one class.

1. *Neuron stimulation* (their section 4.1): the feature map of one channel of an inner layer is set to several levels,
   on a few clean images of all classes, and the rest of the network says how far each class's logit rises.
2. *Compromised candidates* (section 4.2, algorithm 1): channels by which one class rises further than every other one,
   whatever the image shows.
3. *Validation* (section 4.3, algorithm 2): a trigger is sought that drives the candidate's activation up while the
   other channels of its layer change little, and that is bounded in size.
4. *REASR*, the attack success rate of reverse-engineered triggers: the share of clean images, none of which took part
   in steps 1 to 3, that the trigger turns to the candidate's class.  The score is the highest of all candidates, the
   evidence against a class is the highest of its own.  From a REASR of 88 % the paper calls a model trojaned.

The sections and the 88 % are cited from memory.  Different here: a bound of the trigger's size is held exactly (a mask
above it is scaled down) in place of a penalty.  The images are asked for a quantile of the elevation, where the
released code (github.com/naiyeleo/ABS, TrojAI round 1) takes the least one of those that agree, if nine in ten do.
Every class has its best channels as candidates, so that there is evidence for each, where the paper takes the best of
all.  As in the released code the last layers are stimulated, with 0.5, 1 and 2 times the layer's greatest activation.
The paper's second trigger, a transformation of the image bounded by its SSIM (feature-space attacks), is not built.

Stimulations run in large batches through the layers behind the stimulated one only; all candidates' triggers are
optimised in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark.config import Count, NonNegative, Positive
from hallmark.config import Params as _Params
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.detection import triggers
from hallmark.detection.finding import Finding
from hallmark.detection.triggers import Triggers
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime

USUAL = 0.88
"""REASR from which the paper calls a model trojaned."""
_BATCH = 2000
"""Images, or activations, that go through the network at once where no gradient is wanted."""


class Params(_Params):
    """Block ``abs``."""

    layers: Count = 2
    """The last inner layers (hidden linear ones among them) whose channels are stimulated; all if there are fewer."""
    images: Count = 2
    """Of each class, which are stimulated."""
    levels: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)] = (0.5, 1.0, 2.0)
    """Of stimulation, in units of the layer's greatest activation; the elevation is counted from a level of zero."""
    agree: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the images (of other classes) by which the class must rise so far."""
    per_class: Count = 3
    """Candidates of each class."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Of the clean images, from which stimulations and triggers are made; the REASR is measured on the others."""
    steps: Count = 40
    """Of the optimiser."""
    batch_size: Count = 10
    """Images a step and candidate."""
    lr: Positive = 0.2
    """Of Adam, with betas 0.5 and 0.9."""
    start: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of every mask, all over the image, before it is scaled to the bound."""
    size: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Bound of a mask's L1 norm, as a share of the image's pixels."""
    others: NonNegative = 0.1
    """Weight of the mean change of the other channels, against the mean activation of the candidate."""


@dataclass(frozen=True)
class Candidates:
    """Channels that may be compromised, the first class's first.

    Attributes:
        layer: int64 ``[T]``, index of the layer among those stimulated.
        channel: int64 ``[T]``, within the layer.
        target: int64 ``[T]``, the class that rises.
        elevation: float ``[T]``, how far it rises above every other class (logits).
    """

    layer: Tensor
    channel: Tensor
    target: Tensor
    elevation: Tensor


def detect(network: Network, trusted: ImageDataset, params: Params, runtime: Runtime) -> Finding:
    """The highest REASR of the candidates, and that of each class's own.

    Raises:
        UserError: a class with less than two images, or a network without inner layers.
    """
    was_training = network.training
    network.eval()
    making, held, seeds = _split(trusted, params, runtime)
    layers = inner_layers(network)[-params.layers :]
    found = candidates(elevations(network, trusted.subset(seeds), layers, params, runtime), params.per_class)
    mask, pattern = reverse(network, trusted.subset(making), layers, found, params=params, runtime=runtime)
    rates = reasr(network, trusted.subset(held), found.target, mask=mask, pattern=pattern, runtime=runtime)
    network.train(was_training)
    count = len(trusted.classes)
    each = rates.view(count, -1)
    best = each.argmax(1) + torch.arange(count) * each.shape[1]
    return Finding(
        score=float(rates.max()),
        classes=rates[best],
        usual=USUAL,
        pictures=triggers.pictures(mask[best], pattern[best]),
        metrics={
            "norms": mask[best].sum((1, 2, 3)).tolist(),
            "layers": found.layer[best].tolist(),
            "channels": found.channel[best].tolist(),
            "elevations": found.elevation[best].tolist(),
        },
    )


def inner_layers(network: Network) -> list[int]:
    """Positions in :func:`_steps` whose outputs are activations: ReLUs and residual blocks.

    Raises:
        UserError: there are none.
    """
    steps = _steps(network)[:-1]
    found = [i for i, step in enumerate(steps) if isinstance(step, nn.ReLU) or next(step.children(), None) is not None]
    if not found:
        raise UserError(f"abs: no ReLU and no block between image and logits of {network.spec.architecture.name}")
    return found


@torch.no_grad()
def elevations(
    network: Network, seeds: ImageDataset, layers: Sequence[int], params: Params, runtime: Runtime
) -> list[Tensor]:
    """How far every channel lifts each class above all others, by ``agree`` of the images that are not of that class.

    The elevation of a class on an image is its logit at the best level of stimulation, less that at level zero.

    Args:
        seeds: images of all classes.
        layers: positions in :func:`_steps`.

    Returns:
        float32 ``[C, K]`` on the CPU for each layer; negative where another class rises further.
    """
    steps, count, size = _steps(network), len(seeds.classes), len(seeds)
    own = F.one_hot(seeds.labels, count).bool()
    with _tapped([steps[i] for i in layers]) as tapped, runtime.autocast():
        network(to_float(seeds.images.to(runtime.device)))
    found = []
    for position, activation in zip(layers, tapped, strict=True):
        values = activation.max() * torch.tensor([0.0, *params.levels], device=runtime.device)
        values = values.to(activation.dtype).view(-1, *[1] * (activation.dim() - 1))
        chunks = []
        for channels in torch.arange(activation.shape[1]).split(max(1, _BATCH // (size * len(values)))):
            x = activation.expand(len(channels), len(values), *activation.shape).clone()
            x[torch.arange(len(channels)), :, :, channels] = values
            with runtime.autocast():
                logits = _rest(steps, position, x.flatten(0, 2)).float().view(len(channels), len(values), size, count)
            chunks.append((logits[:, 1:].amax(1) - logits[:, 0]).cpu())
        rise = torch.cat(chunks)
        first, second = rise.topk(2, 2).values.split(1, 2)
        margin = rise - torch.where(rise == first, second, first)
        found.append(margin.masked_fill(own, torch.nan).nanquantile(1 - params.agree, 1))
    return found


def candidates(lifts: Sequence[Tensor], per_class: int) -> Candidates:
    """The channels that lift each class the furthest; fewer than ``per_class`` only where the network has fewer.

    Args:
        lifts: :func:`elevations`, float ``[C, K]`` for each layer.
    """
    layer = torch.cat([torch.full((len(lift),), number) for number, lift in enumerate(lifts)])
    channel = torch.cat([torch.arange(len(lift)) for lift in lifts])
    every = torch.cat([*lifts])
    best, index = every.topk(min(per_class, len(every)), 0)
    index, target = index.T.flatten(), torch.arange(every.shape[1]).repeat_interleave(len(best))
    return Candidates(layer[index], channel[index], target, best.T.flatten())


def reverse(
    network: Network,
    making: ImageDataset,
    layers: Sequence[int],
    sought: Candidates,
    *,
    params: Params,
    runtime: Runtime,
) -> tuple[Tensor, Tensor]:
    """The trigger that drives each candidate's channel, all in one batch, from the same start and by the same images.

    Maximised is the channel's mean activation less ``others`` times the mean change of the other channels of the layer
    (w2 f1 - w1 f2 of algorithm 2), both in units of the layer's greatest activation on clean images.  No class is
    asked for: that it follows is what the REASR tests.

    Returns:
        masks float ``[T, 1, H, W]``, of an L1 norm of at most ``size`` of the pixels, and patterns ``[T, C, H, W]``,
        both in 0-1 and on the CPU.
    """
    device, steps = runtime.device, _steps(network)
    count, bound = len(sought.target), params.size * making.shape[1] * making.shape[2]
    modules, channel = [steps[i] for i in layers], sought.channel.to(device)
    rows = [(sought.layer == number).nonzero().flatten().to(device) for number in range(len(layers))]
    found = Triggers.new(count, making.shape, params.start, device, runtime.generator("abs/start"))
    optimizer = torch.optim.Adam(found.parameters, params.lr, betas=(0.5, 0.9), foreach=True)
    images = triggers.batches(making, params.batch_size, device, runtime.generator("abs/images"))
    with torch.no_grad(), _tapped(modules) as tapped, runtime.autocast():
        network(to_float(making.images[:_BATCH].to(device)))
        units = [activation.float().max().clamp_min(1e-6) for activation in tapped]
    for _ in range(params.steps):
        x = next(images)
        with torch.no_grad(), _tapped(modules) as usual, runtime.autocast():
            network(x)
        with _tapped(modules) as driven, runtime.autocast():
            network(triggers.stamp(x, bounded(found.mask, bound), found.pattern))
        gain = torch.zeros((), device=device)
        for own, unit, before, after in zip(rows, units, usual, driven, strict=True):
            if len(own):
                here = torch.arange(len(own), device=device), channel[own]
                activation = after.unflatten(0, (count, len(x)))[own].float() / unit
                change = (activation - before.float() / unit).abs()
                driven_most = activation[here[0], :, here[1]].flatten(1).mean(1)
                change_own = change[here[0], :, here[1]].flatten(1).mean(1) / change.shape[2]
                gain = gain + (driven_most - params.others * (change.flatten(1).mean(1) - change_own)).sum()
        gradients = torch.autograd.grad(-gain, found.parameters)
        for parameter, gradient in zip(found.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return bounded(found.mask, bound).detach().cpu(), found.pattern.detach().cpu()


def bounded(mask: Tensor, bound: float) -> Tensor:
    """Masks ``[T, 1, H, W]`` (0-1) scaled down to an L1 norm of ``bound`` where it is larger."""
    return mask * (bound / mask.sum((1, 2, 3), keepdim=True)).clamp_max(1)


@torch.no_grad()
def reasr(
    network: Network, held: ImageDataset, target: Tensor, *, mask: Tensor, pattern: Tensor, runtime: Runtime
) -> Tensor:
    """Share of the images of other classes that each trigger turns to its target: float64 ``[T]`` on the CPU.

    Args:
        held: clean images that took no part in the making of the triggers.
        target: int64 ``[T]``; NaN is returned for a class that all images are of.
        mask, pattern: float ``[T, 1, H, W]`` and ``[T, C, H, W]``.
    """
    mask, pattern, called = mask.to(runtime.device), pattern.to(runtime.device), []
    for images in held.images.split(max(1, _BATCH // len(mask))):
        stamped = triggers.stamp(to_float(images.to(runtime.device)), mask, pattern)
        with runtime.autocast():
            called.append(network(stamped).argmax(1).view(len(mask), -1).cpu())
    other = held.labels != target[:, None]
    return ((torch.cat(called, 1) == target[:, None]) & other).sum(1).double() / other.sum(1)


def _split(trusted: ImageDataset, params: Params, runtime: Runtime) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the images that triggers are made of, of those held back, and of those stimulated (among the first).

    Raises:
        UserError: a class with less than two images.
    """
    order = torch.randperm(len(trusted), generator=runtime.generator("abs/split"))
    making, held, seeds = [], [], []
    for label, name in enumerate(trusted.classes):
        own = order[trusted.labels[order] == label]
        if len(own) < 2:
            raise UserError(f"abs: {len(own)} clean images of class '{name}' where 2 are needed; give more")
        made = own[: min(math.ceil(params.share * len(own)), len(own) - 1)]
        making.append(made)
        held.append(own[len(made) :])
        seeds.append(made[: params.images])
    return torch.cat(making), torch.cat(held), torch.cat(seeds)


def _steps(network: Network) -> list[nn.Module]:
    """Trunk and head as one sequence of modules, nested sequences taken apart."""

    def flat(module: nn.Module) -> list[nn.Module]:
        if isinstance(module, nn.Sequential):
            return [step for child in module for step in flat(child)]
        return [module]

    return [*flat(network.trunk), *flat(network.head)]


def _rest(steps: Sequence[nn.Module], position: int, x: Tensor) -> Tensor:
    """Logits ``[B, K]`` of activations of ``steps[position]``."""
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    for step in steps[position + 1 :]:
        x = step(x)
    return x


@contextmanager
def _tapped(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Within the block, whatever the modules put out is found in the list, in their order in the network."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda *said: outputs.append(said[2])) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
