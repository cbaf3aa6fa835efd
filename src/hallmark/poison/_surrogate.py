"""The attacker's own classifier, on which triggers are optimised."""

from __future__ import annotations

from hallmark import models
from hallmark.config import Architecture, Params, Training
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import train_classifier


class Surrogate(Params):
    """The block ``surrogate`` of an attack: the classifier that the attacker trains for himself."""

    architecture: Architecture = Architecture(name="cnn9", width=24, unshuffle=2)
    training: Training = Training(epochs=6, batch_size=100, lr=1.5e-3)


def surrogate(train: ImageDataset, params: Surrogate, runtime: Runtime, attack: str) -> Network:
    """A classifier of the clean ``train``, in eval mode: the attacker has the data that he will deliver.

    Its random streams differ from those of every model that the poisoned set will be tested with.

    Raises:
        UserError: a loss stopped being finite.
    """
    purpose = f"poison_data/{attack}"
    network = models.build(params.architecture, train.images, train.classes, runtime, f"{purpose}/surrogate")
    try:
        train_classifier(network, train.images, train.labels, params.training, runtime, purpose=f"{purpose}/surrogate")
    except FloatingPointError as error:
        raise UserError(f"poison_data.{attack}.surrogate: {error}; lower lr or set clip_norm") from None
    return network
