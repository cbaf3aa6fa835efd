"""Transfer learning to another data set, and the old task read again from the features.

The model gets a new last layer for the other set's classes and learns them with all its layers.  A mark that speaks
of the old classes cannot be asked of the new ones, so that its owner probes the *features*: another last layer, for
the old classes, is fitted to them on some truly labelled images, and what comes back is that model.  MEA-Defender
goes from CIFAR-10 to STL-10 (section VI), whose classes are nearly the same, and keeps the last layer; a set with
other classes wants a probe.  The other set is any that ``prepare_data`` reads: scikit-learn's digits are there
offline; STL-10 is an image folder (train/CLASS/*.png) of the user's.  DVC does not watch it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hallmark import training
from hallmark.config import Count, Training
from hallmark.extraction import transfer
from hallmark.extraction.oracle import one_hot
from hallmark.models import Network
from hallmark.removal import Means, RemovalParams, duplicate
from hallmark.removal.methods import fine_tuning


class Params(RemovalParams):
    """Block of a ``transfer`` removal."""

    images: transfer.TransferSet
    """The other data set; its training part is used."""
    training: Training
    """On the other set, of all layers."""
    probe: Count
    """Truly labelled images of the old task, on which the probe is fitted."""
    probe_training: Training
    """Of the probe, which is the last layer alone."""


def remove(network: Network, means: Means, params: Params) -> Network:
    """See :mod:`hallmark.removal.methods`.

    Raises:
        UserError: the other set cannot be read, or more images for the probe than the thief has.
    """
    device = means.runtime.device
    means.choose(params.probe, "probe")  # refused before anything is trained
    other, _ = transfer.load(params.images, network.spec.shape, means.raw, means.where)
    model = duplicate(network)
    old = model.head
    assert isinstance(old, nn.Linear)  # as every architecture's is
    with means.runtime.seeded(f"{means.purpose}/other head"):
        model.head = nn.Linear(old.in_features, len(other.classes)).to(device)
    training.train_classifier(
        model,
        other.images,
        one_hot(other.labels, len(other.classes)),
        params.training,
        means.runtime,
        purpose=f"{means.purpose}/other",
        callback=means.callback,
    )
    model.head = old
    probe: dict[str, Any] = {"images": params.probe, "training": params.probe_training}
    block = fine_tuning.Params(method="fine_tuning", mode="RTLL", labels="ground_truth", **probe)
    return fine_tuning.remove(model, means.part("probe"), block)
