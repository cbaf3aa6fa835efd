"""Data-free model extraction (Truong et al. 2021): the thief has no images and makes them.

A generator seeks images on which copy and victim disagree, and the copy learns the victim's answers there.  The victim
gives no gradients, so the generator's are estimated by forward differences, each of which is a query (section 3.3).
Both losses are the mean distance |victim's logit - copy's logit| (l1, section 3.2), the victim's logits being recovered
as log p less its mean over the classes (section 3.4).

Defaults are those of the authors' released settings for CIFAR-10 (256 noise values, one direction, step 1e-3, one step
of the generator to five of the copy, generator by Adam at 5e-4); there ``training`` would be {batch_size: 256, lr: 0.1,
optimizer: sgd, weight_decay: 5.0e-4} and the budget 20 million.  As there, the differences are taken before the
generator's last activation, so that every image asked is a valid one.  Otherwise than there, learning rates follow
``training.schedule`` and not three drops to 0.3, and the activation is a sigmoid, pixels being 0-1.

A victim that takes 8-bit images, as behind a service, or rounds its answers shows next to nothing of a step of 1e-3:
about ``sqrt(C H W) / 10`` is needed then (six grey levels a pixel at the most).  Half precision hides it as well:
``runtime.precision: fp32``.

Of a victim that answers with labels alone differences show nothing.  The generator then follows the gradient of the
copy, the victim's labels taken as constant: it seeks images whose label the copy finds unlikely (cross-entropy, our
choice), and batches of many classes in the copy's eyes.  That the copy's gradient stands for the victim's, and the
diversity of classes, are those of DFMS-HL (Sanyal et al. 2022), whose main term, a discriminator, needs proxy images.
The copy learns the labels by cross-entropy.  A generator's step costs one batch of queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Count, NonNegative, Positive
from hallmark.errors import UserError
from hallmark.extraction import AttackParams, Oracle, Thief
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.training.loop import make_optimizer, make_schedule

LEAST = 1e-8
"""Probabilities below are as good as 0, whose logarithm nobody could fit."""


class Params(AttackParams):
    """Block of a ``dfme`` attack.  ``training.epochs`` only divides the run for the training curve."""

    generator_lr: Positive = 5e-4
    generator_steps: Count = 1
    """n_G: of the generator in each round; one costs (1 + directions) batches of queries, of labels one."""
    student_steps: Count = 5
    """n_S: of the copy in each round; one costs a batch."""
    directions: Count = 1
    """m: random directions of each estimated gradient."""
    step: Positive = 1e-3
    """epsilon: length of the step along each direction, before the sigmoid that makes pixels."""
    latent: Count = 256
    """Noise values of which an image is made."""
    width: Count = 64
    """Channels of the generator's last hidden layer."""
    diversity: NonNegative = 1.0
    """Weight of the entropy of a batch's classes in what the generator seeks; of labels alone.  Not measured."""

    @property
    def labels(self) -> bool:
        """Whether the victim tells labels alone."""
        return self.answers.form == "labels"

    @property
    def round_cost(self) -> int:
        """Queries of a round."""
        asked = 1 if self.labels else 1 + self.directions
        return self.training.batch_size * (self.generator_steps * asked + self.student_steps)

    @model_validator(mode="after")
    def _possible(self) -> Params:
        idle = {"step", "directions"} if self.labels else {"diversity"}
        if unread := sorted(idle & self.model_fields_set):
            raise ValueError(f"{unread[0]}: says nothing with answers: {self.answers.form}; take it out")
        if self.images is not None:
            raise ValueError("images: this thief has none; take them out")
        if self.training.flip or self.training.shift:
            raise ValueError("training: the images are made and asked anew in every step; take out flip and shift")
        if self.budget < self.round_cost:
            raise ValueError(f"budget: {self.budget:,} does not pay a round of {self.round_cost:,}; raise it")
        return self


def steal(oracle: Oracle, thief: Thief, params: Params) -> Network:
    """Algorithm 1 of the paper, in as many whole rounds as the budget pays for.

    Of the thief's images only the shape is used, not even their mean brightness.

    Raises:
        UserError: ``step`` is too short for a victim that rounds probabilities.
        FloatingPointError: a loss stopped being finite.
    """
    least = math.sqrt(math.prod(thief.data.shape)) / 20
    if oracle.rounds and params.step < least and not params.labels:
        raise UserError(
            f"{thief.where}.step: {params.step:g} is lost on a victim of 8-bit images; set it to {2 * least:.1f}"
        )
    runtime, batch = thief.runtime, params.training.batch_size
    classes = thief.classes or thief.data.classes
    # Half black, half white: the normalisation of one who knows nothing of the pixels but their range.
    plain = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, *thief.data.shape)
    copy = models.build(params.architecture, plain, classes, runtime, f"{thief.purpose}/init").train()
    with runtime.seeded(f"{thief.purpose}/generator"):
        generator = Generator(thief.data.shape, params.latent, params.width)
    generator.to(runtime.device)
    rounds = params.budget // params.round_cost
    student = make_optimizer(list(copy.parameters()), params.training)
    maker = torch.optim.Adam(generator.parameters(), params.generator_lr)
    schedules = [make_schedule(optimizer, params.training, rounds) for optimizer in (student, maker)]
    noise, search = thief.generator("noise"), Search(oracle, copy, thief, params)
    curve = _Curve(rounds, params.training.epochs, thief)

    with progress(rounds * params.round_cost, thief.purpose) as advance, runtime.seeded(f"{thief.purpose}/network"):
        for _ in range(rounds):
            for _ in range(params.generator_steps):
                maker.zero_grad(set_to_none=True)
                made = generator(torch.randn(batch, params.latent, generator=noise).to(runtime.device))
                gradient = search.gradient(made.detach()).to(runtime.device)
                made.backward(-gradient / batch)  # it makes images on which they disagree
                maker.step()
            for _ in range(params.student_steps):
                with torch.no_grad():
                    made = generator(torch.randn(batch, params.latent, generator=noise).to(runtime.device)).sigmoid()
                answers = oracle(made.cpu()).to(runtime.device)
                student.zero_grad(set_to_none=True)
                with runtime.autocast():
                    outputs = copy(made.contiguous(memory_format=torch.channels_last))
                outputs = outputs.float()
                loss = F.cross_entropy(outputs, answers) if params.labels else distance(answers, outputs).mean()
                loss.backward()
                student.step()
                curve.add(float(loss.detach()))
            for schedule in schedules:
                schedule.step()
            curve.round_done()
            advance(params.round_cost)
    return copy.eval()


def distance(answers: Tensor, logits: Tensor) -> Tensor:
    """Mean over the classes of |recovered logit - logit|, float ``[B]``.

    Args:
        answers: the victim's probabilities ``[B, K]``; what log p less its mean over the classes recovers differs from
            the true logits by a constant of each image, which no probability shows.
        logits: the copy's, ``[B, K]``.
    """
    logs = answers.clamp_min(LEAST).log()
    return (logs - logs.mean(1, keepdim=True) - logits).abs().mean(1)


def unlikely(answers: Tensor, logits: Tensor, diversity: float) -> Tensor:
    """What a generator without probabilities seeks: the copy's cross-entropies to the victim's labels, and B times the
    entropy of its mean answer, which is highest where a batch shows all classes alike.

    Args:
        answers: one-hot ``[B, K]``; rows of images that the victim calls none of the classes are uniform and sought
            for nothing.
        logits: the copy's, ``[B, K]``.
    """
    told = (answers.amax(1) == 1).float()
    mean = logits.softmax(1).mean(0)
    entropy = -(mean * mean.clamp_min(LEAST).log()).sum()
    return (told * F.cross_entropy(logits, answers, reduction="none")).sum() + len(logits) * diversity * entropy


def estimated_gradient(
    losses: Callable[[Tensor], Tensor], points: Tensor, step: float, directions: int, generator: torch.Generator
) -> Tensor:
    """Forward differences along random directions (section 3.3): d/m sum (L(x + step u) - L(x)) / step u.

    u are uniform on the unit sphere of the d values of a point, so that d u u' is 1 on average and the estimate right
    to first order of ``step``.

    Args:
        losses: from points ``[M, ...]`` to a loss each, ``[M]``; called once, with ``(directions + 1) * B`` points, the
            unmoved ones first.
        points: float ``[B, ...]``.

    Returns:
        As ``points``.
    """
    u = torch.randn(directions, *points.shape, generator=generator)
    u /= u.flatten(2).norm(dim=2).view(directions, len(points), *[1] * (points.dim() - 1))
    values = losses(torch.cat([points[None], points + step * u]).flatten(0, 1)).view(directions + 1, len(points))
    slopes = ((values[1:] - values[0]) / step).view(directions, len(points), *[1] * (points.dim() - 1))
    return points[0].numel() * (slopes * u).mean(0)


class Search:
    """What the generator climbs: where copy and victim disagree."""

    def __init__(self, oracle: Oracle, copy: Network, thief: Thief, params: Params) -> None:
        self.oracle, self.copy, self.thief, self.params = oracle, copy, thief, params
        self.directions = thief.generator("directions")

    def gradient(self, made: Tensor) -> Tensor:
        """Of the disagreement, summed over the images, at what was made before the sigmoid: ``[B, C, H, W]``."""
        if self.params.labels:
            return self._by_the_copy(made)
        step, count = self.params.step, self.params.directions
        return estimated_gradient(self._disagreement, made.cpu(), step, count, self.directions)

    def _disagreement(self, points: Tensor) -> Tensor:
        images, params = points.sigmoid(), self.params
        answers, batch = self.oracle(images), len(points) // (1 + params.directions)
        changed = (answers[batch:] != answers[:batch].repeat(params.directions, 1)).any(1)
        if changed.float().mean() < 0.5 and self.oracle.used <= params.round_cost:
            raise UserError(
                f"{self.thief.where}.step: most answers stay the same along a step of {params.step:g}; raise it: the "
                "victim rounds"
            )
        return distance(answers, models.logits(self.copy, images, self.thief.runtime))

    def _by_the_copy(self, made: Tensor) -> Tensor:
        runtime = self.thief.runtime
        answers = self.oracle(made.sigmoid().cpu()).to(runtime.device)
        self.copy.eval()
        made.requires_grad_()
        with runtime.autocast():
            outputs = self.copy(made.sigmoid().contiguous(memory_format=torch.channels_last))
        value = unlikely(answers, outputs.float(), self.params.diversity)
        self.copy.train()
        return torch.autograd.grad(value, made)[0]


class Generator(nn.Module):
    """Noise ``[B, latent]`` to images before the sigmoid, ``[B, C, H, W]``: twice doubled and convolved.

    The last normalisation, without weights, keeps pixels within the sigmoid's sloping part.
    """

    def __init__(self, shape: tuple[int, int, int], latent: int, width: int) -> None:
        super().__init__()
        self.shape, self.start = shape, (2 * width, math.ceil(shape[1] / 4), math.ceil(shape[2] / 4))
        self.seed = nn.Linear(latent, math.prod(self.start))
        self.first = nn.BatchNorm2d(2 * width)
        self.second = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)
        )
        self.third = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, shape[0], 3, padding=1),
            nn.BatchNorm2d(shape[0], affine=False),
        )

    def forward(self, noise: Tensor) -> Tensor:
        _, height, width = self.shape
        x = self.first(self.seed(noise).view(-1, *self.start))
        x = self.third(_doubled(self.second(_doubled(x))))
        return x[:, :, :height, :width]


def _doubled(x: Tensor) -> Tensor:
    """Every pixel four times; unlike interpolation's, its gradient is deterministic on every device."""
    return F.pixel_shuffle(x[:, :, None].expand(-1, -1, 4, -1, -1).flatten(1, 2), 2)


class _Curve:
    """Mean loss of the copy over equal parts of the run, as an attack's epochs are reported."""

    def __init__(self, rounds: int, parts: int, thief: Thief) -> None:
        self.thief, self.done, self.part = thief, 0, 0
        self.ends = [math.ceil(rounds * k / parts) for k in range(1, parts + 1)]
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values.append(value)

    def round_done(self) -> None:
        """Report the part, if it ends here.  Raises :class:`FloatingPointError` for a loss that is not finite."""
        self.done += 1
        if self.done != self.ends[self.part]:
            return
        mean = sum(self.values) / len(self.values)
        if not math.isfinite(mean):
            raise FloatingPointError(f"{self.thief.purpose}: the loss is not finite after {self.done} rounds")
        # A run of fewer rounds than parts ends several with one round; only the last of them is there to report.
        while self.part < len(self.ends) and self.ends[self.part] == self.done:
            self.part += 1
        self.thief.callback(self.part, {"distillation": mean})
        self.values = []
