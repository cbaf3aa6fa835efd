"""Neural Cleanse (Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, IEEE S&P 2019): classes that a small patch leads to.

For every class the smallest trigger is sought that makes any image be called it (their equation 3): cross-entropy plus
lambda times the mask's L1 norm.  Lambda is raised while the trigger works, and lowered when it does not (section IV-C;
the powers are the released code's).  A class whose norm is far below the others' is the target of a backdoor.  The
paper's anomaly index is the distance from the median in units of 1.4826 MAD, and 2 its bound.  Of ten classes the MAD
is itself so uncertain that the index says little (docs/detection.md, measured), so the score here is ln(median / norm)
unless ``statistic`` is ``index``; both are reported.

All classes are optimised at once: one batch holds every image with every class's trigger, and each class has its own
lambda.  Class by class (:func:`reverse` of one class at a time) the same triggers are found, and it takes longer
(benchmarks/neural_cleanse.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import Count, Positive
from hallmark.config import Params as _Params
from hallmark.data.dataset import ImageDataset
from hallmark.detection import triggers
from hallmark.detection.finding import Finding
from hallmark.detection.triggers import Triggers
from hallmark.models import Network
from hallmark.outliers import lower_outliers
from hallmark.runtime import Runtime

USUAL = 2.0
"""Anomaly index from which the paper calls a class infected."""


class Params(_Params):
    """Block ``neural_cleanse``.  The released code takes some thousands of steps of 32 images a class."""

    steps: Count = 40
    """Of the optimiser."""
    batch_size: Count = 10
    """Images a step and class."""
    lr: Positive = 0.2
    """Of Adam, with the released code's betas 0.5 and 0.9; its lr of 0.1 wants more steps."""
    success: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of images that a trigger must turn to count as working.  The released code's 0.99 costs steps and tells no
    more here: the last per cents are images that hardly any small trigger turns."""
    patience: Count = 4
    """Steps over which the share is taken, and after which lambda changes."""
    start: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of every mask, all over the image."""
    first_lambda: Positive = 0.01
    """For a norm that is summed over pixels of 0-1; the released code's 0.001 wants more steps."""
    factor: Annotated[float, Field(gt=1)] = 1.5
    """Lambda is multiplied with it while the trigger works, and divided by its power of 1.5 when it does not."""
    statistic: Literal["ratio", "index"] = "ratio"
    """What is said of a class: ln(median norm / its norm), or the paper's anomaly index."""


@dataclass(frozen=True)
class Reversed:
    """The triggers found, one a class.

    Attributes:
        mask, pattern: float ``[T, 1, H, W]`` and ``[T, C, H, W]``, 0-1, of the smallest trigger that worked.
        norms: float64 ``[T]``, the mask's L1 norm; all pixels where no trigger worked.
        worked: bool ``[T]``.
    """

    mask: Tensor
    pattern: Tensor
    norms: Tensor
    worked: Tensor


def reverse(network: Network, trusted: ImageDataset, targets: list[int], params: Params, runtime: Runtime) -> Reversed:
    """The smallest trigger towards each of ``targets``, all in one batch.

    Images and starting point are the same for every class, so that it does not matter which are sought together.
    """
    device, label = runtime.device, torch.tensor(targets, device=runtime.device)
    count, (_, h, w) = len(targets), trusted.shape
    found = Triggers.new(count, trusted.shape, params.start, device, runtime.generator("neural_cleanse/start"))
    optimizer = torch.optim.Adam(found.parameters, params.lr, betas=(0.5, 0.9), foreach=True)
    images = triggers.batches(trusted, params.batch_size, device, runtime.generator("neural_cleanse/images"))
    weight = torch.full((count,), params.first_lambda, device=device)
    best_norm = torch.full((count,), math.inf, device=device)
    best_mask, best_pattern = found.mask.detach().clone(), found.pattern.detach().clone()
    turned, was_training = torch.zeros(count, device=device), network.training
    network.eval()
    for step in range(1, params.steps + 1):
        mask, pattern, x = found.mask, found.pattern, next(images)
        norm = mask.sum((1, 2, 3))
        with runtime.autocast():
            logits = network(triggers.stamp(x, mask, pattern)).float().view(count, len(x), -1)
        wanted = label[:, None].expand(count, len(x))
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted).mean(1)
        gradients = torch.autograd.grad((loss + weight * norm).sum(), found.parameters)
        with torch.no_grad():
            turned += (logits.argmax(2) == wanted).float().mean(1) / params.patience
            if step % params.patience == 0:
                works = turned >= params.success
                better = works & (norm < best_norm)
                best_norm = torch.where(better, norm, best_norm)
                best_mask = torch.where(better[:, None, None, None], mask, best_mask)
                best_pattern = torch.where(better[:, None, None, None], pattern, best_pattern)
                weight = torch.where(works, weight * params.factor, weight / params.factor**1.5)
                turned.zero_()
        for parameter, gradient in zip(found.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    network.train(was_training)
    worked = best_norm.isfinite()
    # Not zero, which a trigger of no pixel would have: the logarithm must exist.
    norms = torch.where(worked, best_norm, float(h * w)).double().cpu().clamp_min(1e-3)
    return Reversed(best_mask.cpu(), best_pattern.cpu(), norms, worked.cpu())


def detect(network: Network, trusted: ImageDataset, params: Params, runtime: Runtime) -> Finding:
    """How far below the others' each class's smallest trigger is; the score is the greatest of them."""
    found = reverse(network, trusted, list(range(len(trusted.classes))), params, runtime)
    index = lower_outliers(found.norms)
    classes = index if params.statistic == "index" else (found.norms.quantile(0.5) / found.norms).log()
    return Finding(
        score=float(classes.nan_to_num(-math.inf).max()),
        classes=classes,
        usual=USUAL if params.statistic == "index" else math.nan,
        pictures=triggers.pictures(found.mask, found.pattern),
        metrics={"norms": found.norms.tolist(), "index": index.tolist(), "worked": int(found.worked.sum())},
    )
