"""Triggers and perturbations by gradients of the attacker's classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.data.dataset import to_float
from hallmark.models import Network
from hallmark.progress import progress
from hallmark.runtime import Runtime

_BATCH = 500


def adversarial(
    network: Network, images: Tensor, label: int, *, eps: float, step: float, steps: int, runtime: Runtime
) -> Tensor:
    """Projected gradient ascent of the loss of ``label`` (Madry et al. 2018), without a random start.

    Args:
        network: in eval mode.
        images: uint8 ``[N, C, H, W]``.
        eps: bound of each pixel's change; step: of one step; both in grey levels of 255.

    Returns:
        float ``[N, C, H, W]`` in 0-1, within ``eps / 255`` of the images.
    """
    parts = [images[:0].float()]
    with progress(len(images) * steps, "adversarial perturbation") as advance:
        for part in images.split(_BATCH):
            clean = to_float(part.to(runtime.device))
            moved = clean.clone()
            wanted = torch.full((len(part),), label, device=runtime.device)
            for _ in range(steps):
                moved.requires_grad_(True)
                loss = F.cross_entropy(network(moved).float(), wanted, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
                moved = moved.detach() + step / 255 * gradient.sign()
                moved = torch.minimum(torch.maximum(moved, clean - eps / 255), clean + eps / 255).clamp(0, 1)
                advance(len(part))
            parts.append(moved.detach().cpu())
    return torch.cat(parts)


def optimise(
    start: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    *,
    lr: float,
    steps: int,
    batch_size: int,
    project: Callable[[Tensor], Tensor],
    runtime: Runtime,
    purpose: str,
) -> Tensor:
    """One pattern for all images: Adam on random batches, the pattern kept in its bounds after every step.

    Args:
        start: float, the pattern to begin with.
        loss: from a batch (float ``[B, C, H, W]`` in 0-1) and the pattern to a scalar.
        images: uint8 ``[N, C, H, W]``.
        project: into the bounds.
        purpose: names the random stream of the batches.

    Returns:
        float of ``start``'s shape, on the CPU.
    """
    pattern = start.clone().to(runtime.device).requires_grad_(True)
    optimizer = torch.optim.Adam([pattern], lr=lr)
    size = min(batch_size, len(images))
    with progress(steps * size, purpose) as advance:
        for index in batches(len(images), size, steps, runtime.generator(purpose)):
            (pattern.grad,) = torch.autograd.grad(loss(to_float(images[index].to(runtime.device)), pattern), pattern)
            optimizer.step()
            with torch.no_grad():
                pattern.copy_(project(pattern))
            advance(size)
    return pattern.detach().cpu()


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches, ``steps`` of them, each drawn at random without repetition within itself."""
    for _ in range(steps):
        yield torch.randperm(count, generator=generator)[:size]
