"""The attacker's own classifier, on which triggers are optimised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Architecture, Params, Training
from hallmark.data import ImageDataset
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import fit, train_classifier


class Surrogate(Params):
    """The block ``surrogate`` of an attack: the classifier that the attacker trains for himself.

    A short training, for it is repeated with every poisoned set, and six epochs gave triggers that were no better."""

    architecture: Architecture = Architecture(name="cnn9", width=16, unshuffle=2)
    training: Training = Training(epochs=3, batch_size=100, lr=2e-3)


def surrogate(
    train: ImageDataset, params: Surrogate, runtime: Runtime, attack: str, *, robust_eps: float = 0.0
) -> Network:
    """A classifier of the clean ``train``, in eval mode: the attacker has the data that he will deliver.

    Its random streams differ from those of every model that the poisoned set will be tested with.

    Args:
        robust_eps: bound, in grey levels of 255, of the perturbations that it is trained against: one step of the
            gradient's sign from a random start (Wong, Rice, Kolter 2020); 0: ordinary training.

    Raises:
        UserError: a loss stopped being finite.
    """
    purpose = f"poison_data/{attack}"
    network = models.build(params.architecture, train.images, train.classes, runtime, f"{purpose}/surrogate")
    try:
        if robust_eps:
            eps = robust_eps / 255
            _train_robustly(network, train, params.training, eps=eps, runtime=runtime, purpose=f"{purpose}/surrogate")
        else:
            train_classifier(
                network, train.images, train.labels, params.training, runtime, purpose=f"{purpose}/surrogate"
            )
    except FloatingPointError as error:
        raise UserError(f"poison_data.{attack}.surrogate: {error}; lower lr or set clip_norm") from None
    return network


def _train_robustly(
    network: Network, train: ImageDataset, config: Training, *, eps: float, runtime: Runtime, purpose: str
) -> None:
    images, labels = train.images.to(runtime.device), train.labels.to(runtime.device)
    starts = runtime.generator(f"{purpose}/robust")

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        clean = to_float(images[index])
        start = (torch.rand(clean.shape, generator=starts).to(clean) * 2 - 1) * eps
        moved = (clean + start).clamp(0, 1).requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(moved).float(), labels[index]), moved)
        moved = moved.detach() + 1.25 * eps * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, clean - eps), clean + eps).clamp(0, 1)
        return {"cross_entropy": F.cross_entropy(network(moved).float(), labels[index])}

    fit(network, len(images), losses, config, runtime, purpose=purpose)
