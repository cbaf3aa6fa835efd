"""Knockoff Nets (Orekondy et al. 2019): ask images of a transfer set, at random or by a learned policy.

The adaptive policy is a gradient bandit over the classes of the *thief's own* transfer set: a thief
who has images usually has them sorted (the paper uses the labels of public data sets).  These labels
only steer the choice; the copy is fitted to the victim's answers alone.

``step: 1``, ``policy_lr: null`` and ``baseline: recent`` are the rule of section 4.1.2.  The defaults differ where the
paper's would cost a request an image, or hardly learn within a few thousand images: many images a step, a constant
learning rate, and the mean of all rewards as baseline.  Always other than in the paper: classes are flat, not a
hierarchy; no image is asked twice; rewards are averaged, not summed (a factor of the learning rate); and only the loss
is scaled, by the largest so far, since margin and excess lie in 0-1 by themselves.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hallmark import models
from hallmark.config import Count, Positive
from hallmark.data.dataset import to_float
from hallmark.extraction import AttackParams, Oracle, Thief
from hallmark.extraction.thief import distillation_loss
from hallmark.models import Network
from hallmark.training.loop import make_optimizer

WINDOW = 10
"""Steps that the mean answer of the diversity reward looks back (Delta of the paper)."""


class Params(AttackParams):
    """Block of a ``knockoff`` attack."""

    policy: Literal["random", "adaptive"]
    rewards: Annotated[list[Literal["certainty", "diversity", "loss"]], Field(min_length=1)]
    """What the adaptive policy is rewarded for; their mean."""
    step: Count = 100
    """Images asked between two updates of the adaptive policy."""
    policy_lr: Positive | None = 10.0
    """Learning rate of the adaptive policy's preferences; null: 1/N(z), z having been drawn N(z) times."""
    baseline: Literal["all", "recent"] = "all"
    """What a reward must exceed: the mean of all so far, this step's included, or of the last WINDOW steps."""
    temperature: Positive = 1.0
    """As in distillation; 1 fits the answers as they are, as in the paper."""

    @model_validator(mode="after")
    def _certain_of_labels(self) -> Params:
        if self.policy == "adaptive" and self.answers.form == "labels" and self.rewards == ["certainty"]:
            raise ValueError("rewards: every label is certain, so certainty steers nothing; name diversity or loss")
        return self


def steal(oracle: Oracle, thief: Thief, params: Params) -> Network:
    """Ask ``budget`` images by the policy, then train a fresh copy on the answers.

    Raises:
        UserError: the budget exceeds the thief's images.
    """
    order = thief.choose(params.budget, "budget")
    if params.policy == "random":
        answers = oracle(thief.data.images[order])
    else:
        order, answers = _ask_adaptively(oracle, thief, params)
    network = thief.network(params.architecture)
    thief.fit(network, thief.data.images[order], answers, params.training, params.temperature)
    return network


def _ask_adaptively(oracle: Oracle, thief: Thief, params: Params) -> tuple[Tensor, Tensor]:
    """Positions of the images asked, in order, and the answers ``[N, K]``."""
    data, generator = thief.data, thief.generator("policy")
    stock = [(data.labels == label).nonzero()[:, 0] for label in range(len(data.classes))]
    stock = [positions[torch.randperm(len(positions), generator=generator)] for positions in stock]
    policy = Bandit(len(data.classes), params.policy_lr, WINDOW if params.baseline == "recent" else None)
    past: deque[Tensor] = deque(maxlen=WINDOW)
    scale = torch.zeros(())
    online = _Online(thief, params)
    asked, given = [], []
    while oracle.left:
        room = torch.tensor([len(positions) for positions in stock])
        actions = policy.draw(min(params.step, oracle.left), room, generator)
        counts = actions.bincount(minlength=len(stock)).tolist()
        # The actions come sorted by class, so that images are taken from each class's stock at once.
        chosen = torch.cat([positions[:count] for positions, count in zip(stock, counts, strict=True)])
        stock = [positions[count:] for positions, count in zip(stock, counts, strict=True)]
        answers = oracle(data.images[chosen])
        loss = online.step(data.images[chosen], answers)
        scale = torch.maximum(scale, loss.max())
        mean = torch.cat(list(past)).mean(0) if past else answers.mean(0)
        parts = {
            "certainty": certainty_reward(answers),
            "diversity": diversity_reward(answers, mean),
            "loss": loss / scale.clamp_min(1e-12),
        }
        policy.update(actions, torch.stack([parts[name] for name in params.rewards]).mean(0))
        past.append(answers)
        asked.append(chosen)
        given.append(answers)
    return torch.cat(asked), torch.cat(given)


def certainty_reward(answers: Tensor) -> Tensor:
    """R^cert: the margin between the two likeliest classes, ``[B]`` in 0-1 (section 4.1.2)."""
    best = answers.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def diversity_reward(answers: Tensor, mean: Tensor) -> Tensor:
    """R^div: by how much answers exceed the mean of the recent ones, ``[B]`` in 0-1 (section 4.1.2)."""
    return (answers - mean).clamp_min(0).sum(1)


class Bandit:
    """Gradient bandit over classes (Sutton and Barto, section 2.8; section 4.1.2 of the paper).

    Args:
        classes: actions.
        lr: None is 1/N(z), N(z) being how often z was drawn, this step included.
        window: steps that the baseline looks back; None: all, this one included.

    Attributes:
        preferences: H, float64 ``[Z]``; the policy is softmax(H).
        baseline: the mean reward that the last step was compared with.
    """

    def __init__(self, classes: int, lr: float | None, window: int | None = None) -> None:
        self.preferences = torch.zeros(classes, dtype=torch.float64)
        self.lr, self.baseline, self._seen = lr, 0.0, 0
        self._drawn = torch.zeros(classes, dtype=torch.float64)
        self._recent: deque[Tensor] | None = None if window is None else deque(maxlen=window)

    def draw(self, count: int, room: Tensor, generator: torch.Generator) -> Tensor:
        """``count`` actions (int64, sorted) by the policy; a class with ``room`` images gives no more.

        ``room`` must hold ``count`` images altogether.
        """
        counts = torch.zeros_like(room)
        while (missing := count - int(counts.sum())) > 0:
            chances = self.preferences.softmax(0) * (room > counts)
            if not chances.sum() > 0:  # what is left has a chance too small for floating point
                chances = (room > counts).double()
            drawn = torch.multinomial(chances, missing, replacement=True, generator=generator)
            counts = torch.minimum(counts + drawn.bincount(minlength=len(room)), room)
        return torch.arange(len(room)).repeat_interleave(counts)

    def update(self, actions: Tensor, rewards: Tensor) -> None:
        """H(z) += lr (r - baseline) ([z is the action] - policy(z)) for the images of a step.

        The paper updates after every image.  Here a step's images share policy and baseline; a constant rate takes
        the mean over them, and 1/N(z) the sum, as the paper's single updates would.

        Args:
            actions: int64 ``[B]``.
            rewards: ``[B]`` in 0-1.
        """
        rewards = rewards.double()
        self._compare(rewards)
        advantage = rewards - self.baseline
        if self.lr is None:
            self._drawn += actions.bincount(minlength=len(self.preferences))
            advantage = advantage / self._drawn[actions]
        taken = torch.zeros_like(self.preferences).index_add_(0, actions, advantage)
        rate = 1.0 if self.lr is None else self.lr / len(actions)
        self.preferences += rate * (taken - advantage.sum() * self.preferences.softmax(0))

    def _compare(self, rewards: Tensor) -> None:
        """Set the baseline for this step's rewards; the first step of a window has only itself."""
        if self._recent is None:
            total = self.baseline * self._seen + float(rewards.sum())
            self._seen += len(rewards)
            self.baseline = total / self._seen
        else:
            self.baseline = float(torch.cat(list(self._recent) or [rewards]).mean())
            self._recent.append(rewards)


class _Online:
    """The copy that learns while asking, for the loss reward alone."""

    def __init__(self, thief: Thief, params: Params) -> None:
        self.network, self.thief = thief.network(params.architecture).train(), thief
        weights = list(self.network.parameters())
        self.optimizer = make_optimizer(weights, params.training)
        self.temperature = params.temperature
        self.steps = 0

    def step(self, images: Tensor, answers: Tensor) -> Tensor:
        """Cross-entropy of the copy to each answer, float ``[B]`` on the CPU; then one training step."""
        runtime = self.thief.runtime
        loss = -(answers * models.logits(self.network, images, runtime).log_softmax(1)).sum(1)
        self.steps += 1
        x = to_float(images.to(runtime.device)).contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        with runtime.seeded(f"{self.thief.purpose}/online{self.steps}"):
            with runtime.autocast():
                outputs = self.network(x)
            distillation_loss(outputs.float(), answers.to(runtime.device), self.temperature).backward()
        self.optimizer.step()
        return loss
