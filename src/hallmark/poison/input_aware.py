"""Input-Aware, also IAD (Nguyen, Tran 2020): a generator makes a trigger for each image, useless on any other.

The paper trains generator and victim together and delivers the victim.  Here the generator is trained with the
attacker's own classifier, then the *data* are poisoned with it; *cross-trigger* images, which carry another image's
trigger, come along as covers with their right label, so that only the matching trigger is learnt.  What is left of
the attack's success is measured in docs/attacks.md.

The paper's masks come of a network of their own, trained first, with a diversity loss of their own, and then frozen.
Here one network makes pattern and mask in one training.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import config as hallmark_config
from hallmark import models
from hallmark.config import Architecture, Count, NonNegative, PoisonData, Positive
from hallmark.data import ImageDataset
from hallmark.data.dataset import to_float, to_uint8
from hallmark.models import Network
from hallmark.poison import Covers, Poisoned, Trigger, deliver, label_mode, wanted
from hallmark.poison._generators import Painter, paint
from hallmark.poison._gradient import batches
from hallmark.progress import progress
from hallmark.runtime import Runtime

LABEL_MODES = ("all_to_one", "all_to_all")


class Params(hallmark_config.Params):
    """Block ``input_aware``; covers and mask density are the paper's, all else is ours."""

    covers: NonNegative = 1.0
    """So many times as many images as poisons carry another image's trigger, with the right label; the paper's 1
    (its rho_b = rho_c = 0.1)."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.032
    """Share of an image that the mask may cover."""
    diversity: NonNegative = 0.1
    """Weight of the diversity loss; the paper's 1 is of another loss: see :func:`diversity`."""
    sparsity: NonNegative = 10.0
    """Weight of the mask's excess over ``density``."""
    width: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 16
    steps: Count = 150
    """Of generator and classifier together."""
    batch_size: Annotated[int, Field(ge=8)] = 100
    lr: Positive = 0.002
    architecture: Architecture = Architecture(name="cnn9", width=16, unshuffle=2)
    """Of the classifier that the generator is trained with."""


class Generator(nn.Module):
    """A pattern and a mask for each image."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.painter = Painter(channels, channels + 1, width)

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pattern ``[B, C, H, W]`` and mask ``[B, 1, H, W]`` in 0-1 for ``images`` (float in 0-1)."""
        out = self.painter(images)
        return torch.sigmoid(out[:, :-1]), torch.sigmoid(4 * out[:, -1:] - 2)

    def put(self, images: Tensor, source: Tensor) -> Tensor:
        """``images`` with the trigger of ``source``."""
        return put(images, *self.parts(source))

    def forward(self, images: Tensor) -> Tensor:
        """``images`` with their own triggers."""
        return self.put(images, images)


def put(images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """x (1 - m) + p m, their equation 2."""
    return images * (1 - mask) + pattern * mask


def diversity(first: Tensor, second: Tensor, patterns: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of the inputs' distance over their triggers': large if triggers are alike.

    The paper's equation 6 has the distance of the patterns p themselves; here it is that of p m, pattern times mask:
    what an image gets to see, for mask and pattern are learnt at once, and a pattern under a closed mask could differ
    at no cost.  These distances are smaller than the paper's, so that its weight would mean another thing here.

    Args:
        first, second: the inputs, float ``[B, C, H, W]``.
        patterns: what is compared of the triggers of both, the same shape.
    """
    between = (first - second).flatten(1).norm(dim=1)
    apart = (patterns[0] - patterns[1]).flatten(1).norm(dim=1)
    return (between / (apart + 1e-3)).mean()


def train_generator(
    train: ImageDataset, params: Params, runtime: Runtime, *, mode: str, target: int
) -> tuple[Generator, Network]:
    """The generator and the classifier that it was trained together with, in eval mode.

    The paper delivers the classifier; poisoning a set throws it away.
    """
    purpose = "poison_data/input_aware"
    victim = models.build(params.architecture, train.images, train.classes, runtime, f"{purpose}/surrogate")
    with runtime.seeded(purpose):
        generator = Generator(train.shape[0], params.width).to(runtime.device)
    optimizer = torch.optim.Adam([*victim.train().parameters(), *generator.parameters()], lr=params.lr)
    size = min(params.batch_size, len(train) // 2 * 2)
    share = size // 4
    with runtime.seeded(f"{purpose}/dropout"), progress(params.steps * size, "input_aware: generator") as advance:
        for index in batches(len(train), size, params.steps, runtime.generator(f"{purpose}/batches")):
            images = to_float(train.images[index].to(runtime.device))
            labels = train.labels[index]
            aim = wanted(labels[:share], mode, target, len(train.classes))
            other = images.flip(0)
            pattern, mask = generator.parts(images)
            patterns = pattern * mask
            triggered, crossed = (put(images, *part) for part in ((pattern, mask), (pattern.flip(0), mask.flip(0))))
            mixed = torch.cat([triggered[:share], crossed[share : 2 * share], images[2 * share :]])
            answers = victim(mixed).float()
            loss = F.cross_entropy(answers, torch.cat([aim, labels[share:]]).to(runtime.device))
            loss = loss + params.diversity * diversity(images, other, (patterns, patterns.flip(0)))
            loss = loss + params.sparsity * (mask.mean((1, 2, 3)) - params.density).clamp_min(0).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            advance(size)
    return generator.eval().requires_grad_(False), victim.eval()


def poison(train: ImageDataset, test: ImageDataset, config: PoisonData, params: Params, runtime: Runtime) -> Poisoned:
    """Each image's own trigger on poisons, another's on covers: see :func:`hallmark.poison.deliver`."""
    mode = label_mode(config, LABEL_MODES)
    target = train.class_index(config.target, "poison_data.target")
    generator, _ = train_generator(train, params, runtime, mode=mode, target=target)
    trigger, covers = triggers(generator, train, params, runtime)
    return deliver(train, test, config, runtime, modes=LABEL_MODES, trigger=trigger, covers=covers)


def triggers(generator: Generator, train: ImageDataset, params: Params, runtime: Runtime) -> tuple[Trigger, Covers]:
    """Each image's own trigger, and for covers that of another image of ``train``, drawn anew for each."""
    partners = runtime.generator("poison_data/input_aware/partners")

    @torch.no_grad()
    def cross(images: Tensor) -> Tensor:
        source = train.images[torch.randint(len(train), (len(images),), generator=partners)]
        parts = [
            to_uint8(generator.put(*(to_float(side.to(runtime.device)) for side in pair))).cpu()
            for pair in zip(images.split(500), source.split(500), strict=True)
        ]
        return torch.cat(parts) if parts else images.clone()

    return (lambda images: paint(generator, images, runtime)), Covers(params.covers, cross)
