"""The one training loop: batches by index, any number of named losses, one way to combine them.

Every method that trains a network (classifiers, watermarks, stolen copies) calls :func:`fit`; the
method itself is the ``losses`` function.  Data lives on the device and is gathered by index there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hallmark.config import Training
from hallmark.progress import progress
from hallmark.runtime import Runtime

Losses = Callable[[Tensor], Mapping[str, Tensor]]
"""From int64 indices ``[B]`` on the device to named scalar losses, in the order of their weights."""

Combine = Callable[[Mapping[str, Tensor], list[nn.Parameter]], None]
"""Turns named losses into gradients: must fill ``.grad`` of the parameters."""

EpochCallback = Callable[[int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1) and the mean of each loss over the epoch."""


def no_callback(epoch: int, metrics: Mapping[str, float]) -> None:
    """An :data:`EpochCallback` that does nothing."""


def weighted_sum(weights: Mapping[str, float]) -> Combine:
    """Backpropagate ``sum(weights[name] * loss)``; a loss without a weight counts once."""

    def combine(losses: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> None:
        torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum().backward()

    return combine


def fit(
    network: nn.Module,
    count: int,
    losses: Losses,
    config: Training,
    runtime: Runtime,
    *,
    purpose: str,
    combine: Combine | None = None,
    callback: EpochCallback = no_callback,
) -> None:
    """Train ``network`` in place over ``count`` items.

    Args:
        losses: computes the losses of a batch from the indices of its items.  It is called under
            autocast; what it draws from the global generators is seeded by ``purpose``.
        config: epochs, batch size, optimizer, schedule.  The last, incomplete batch of an epoch is
            trained as well unless it has fewer than two items.
        purpose: names the random streams (order of the batches, dropout).
        combine: see :data:`Combine`; the plain sum if None.

    Raises:
        FloatingPointError: a loss stopped being finite.
    """
    combine = combine or weighted_sum({})
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, config)
    batches = math.ceil(count / config.batch_size)
    scheduler = make_schedule(optimizer, config, config.epochs * batches)
    order = runtime.generator(f"{purpose}/order")
    network.train()
    with progress(config.epochs * count, purpose) as advance, runtime.seeded(f"{purpose}/network"):
        for epoch in range(1, config.epochs + 1):
            totals: dict[str, Tensor] = {}
            permutation = torch.randperm(count, generator=order).to(runtime.device)
            for index in permutation.split(config.batch_size):
                if len(index) < 2:  # batch normalisation cannot train on one item
                    continue
                optimizer.zero_grad(set_to_none=True)
                with runtime.autocast():
                    values = losses(index)
                combine(values, parameters)
                if config.clip_norm:
                    nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                scheduler.step()
                for name, value in values.items():
                    part = value.detach().float() * len(index)
                    totals[name] = totals[name] + part if name in totals else part
                advance(len(index))
            means = {name: float(total) / count for name, total in totals.items()}
            if not all(map(math.isfinite, means.values())):
                raise FloatingPointError(f"{purpose}: a loss is not finite in epoch {epoch}: {means}")
            callback(epoch, means)
    network.eval()


def make_optimizer(parameters: list[nn.Parameter], config: Training) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names."""
    # On a GPU one kernel for all parameters: small networks wait for launches, not for arithmetic.
    fused = all(parameter.is_cuda for parameter in parameters)
    shared: dict[str, Any] = {"weight_decay": config.weight_decay, "fused": fused, "foreach": not fused}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, **shared)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, config.lr, **shared)


def make_schedule(
    optimizer: torch.optim.Optimizer, config: Training, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate by step: constant, or half a cosine down to zero."""
    if config.schedule == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, steps) / max(steps, 1)))
    )
