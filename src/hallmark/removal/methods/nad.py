"""Neural Attention Distillation (Li et al. 2021): the model learns to look where its fine-tuned self looks.

The teacher is the model fine-tuned on the thief's images.  The student, the model as it was, learns the images and,
with weight ``beta``, the teacher's attention maps: sum over channels of the squared output of the last convolution at
each resolution, scaled to length 1 (the paper's A^2_sum; it takes the ends of WideResNet's groups).  Defaults from
the paper: beta 1,000, the squared error averaged over the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark.config import Count, NonNegative
from hallmark.models import Network
from hallmark.removal import Lessons, Means, duplicate


class Params(Lessons):
    """Block of a ``nad`` removal; ``training`` is the student's."""

    beta: NonNegative = 1000.0
    teacher_epochs: Count = 5
    """Of the teacher's fine-tuning, which has the student's other settings."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: more images than the thief has.
    """
    teacher, student = duplicate(network), duplicate(network)
    brief = params.model_copy(update={"training": params.training.model_copy(update={"epochs": params.teacher_epochs})})
    first = means.lesson(brief)
    seen = first.batches()
    first.fit(teacher, lambda index: {"teacher": first.loss(teacher(seen(index)), index)}, name="teacher")
    lesson = means.lesson(params)
    batch = lesson.batches()
    with convolutions(teacher) as theirs, convolutions(student) as ours:

        def losses(index: Tensor) -> Mapping[str, Tensor]:
            x = batch(index)
            logits = student(x)
            with torch.no_grad():
                teacher(x)
            distances = [
                F.mse_loss(attention(own), attention(other).detach())
                for own, other in zip(ours(), theirs(), strict=True)
            ]
            return {"fit": lesson.loss(logits, index), "attention": params.beta * torch.stack(distances).sum()}

        lesson.fit(student, losses)
    return student


def attention(outputs: Tensor) -> Tensor:
    """Attention maps ``[B, H W]`` of outputs ``[B, C, H, W]``, each of length 1."""
    return F.normalize(outputs.float().pow(2).sum(1).flatten(1), dim=1)


@contextmanager
def convolutions(network: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
    """Within the block the yielded function gives, of the last forward pass, the last convolution's output at each
    resolution, from the finest.  Where a ReLU works in place, that is what it has left."""
    outputs: dict[tuple[int, ...], Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[tuple(output.shape[2:])] = output

    handles = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        yield lambda: list(outputs.values())
    finally:
        for handle in handles:
            handle.remove()
