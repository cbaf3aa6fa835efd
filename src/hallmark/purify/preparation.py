"""Before and after every sanitizer: checks of what it gets and gives, and the suspect model."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

import torch

from hallmark import models
from hallmark.config import PurifyData
from hallmark.data.dataset import ImageDataset, fingerprints
from hallmark.diffusion.model import DiffusionModel
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.purify.purifier import Purifier
from hallmark.purify.reserve import Judges
from hallmark.purify.result import Material, Purification, train, warn
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, accuracy

FEWEST = 2
"""Images without which neither a suspect model nor hosts of other classes exist."""
SHOWN = 5
"""Names of classes in a warning."""


def prepare(
    data: ImageDataset,
    reserve: ImageDataset,
    diffusion: DiffusionModel,
    config: PurifyData,
    runtime: Runtime,
    *,
    epochs: Callable[[str], EpochCallback],
    suspect: Network | None = None,
    judges: MutableMapping[str, Judges] | None = None,
) -> Material:
    """Check the inputs, warn of a purifier that may know the poisons, and train the suspect model on ``data`` as given.

    Images that the reserve holds several times are taken once, see :func:`distinct`.

    Args:
        suspect: what :func:`train_suspect` gave for ``data`` before, to share it among sanitizers.
        judges: of another set's material with the same reserve, diffusion model, rounds and runtime.

    Raises:
        UserError: too few images or classes, data and reserve or diffusion model that do not fit.
    """
    trusted = distinct(reserve)
    if duplicates := len(reserve) - len(trusted):
        warn(
            f"{duplicates:,} of the {len(reserve):,} trusted images are copies of others and left out, since a "
            "classifier must not judge an image that it has learnt; mend the reserve"
        )
    check_inputs(data, trusted)
    purifier = Purifier(diffusion, config.rounds, runtime)
    purifier.check(data.shape)
    warn(doubt_in_purifier(purifier_overlap(data, diffusion), len(data)))
    if suspect is None:
        suspect = train_suspect(data, config, runtime, epochs)
    return Material(
        data,
        trusted,
        purifier,
        suspect,
        config.architecture,
        config.training,
        runtime,
        epochs,
        {} if judges is None else judges,
        duplicates,
    )


def distinct(reserve: ImageDataset) -> ImageDataset:
    """The images without later copies of the same pixels, whatever their label; the same object if there are none.

    Copies fall into different folds of the reserve: then trusted images are judged by classifiers that know them, given
    ones are not, and clean classes look doubtful.
    """
    first: dict[int, int] = {}
    for position, print_ in enumerate(fingerprints(reserve.images).tolist()):
        first.setdefault(print_, position)
    return reserve if len(first) == len(reserve) else reserve.subset(torch.tensor(list(first.values())))


def train_suspect(
    data: ImageDataset, config: PurifyData, runtime: Runtime, epochs: Callable[[str], EpochCallback]
) -> Network:
    """A classifier of ``data``, in eval mode; its random streams depend on the seed alone.

    Raises:
        UserError: a loss stopped being finite.
    """
    suspect = models.build(config.architecture, data.images, data.classes, runtime, "purify/suspect")
    train(suspect, "suspect", data.images, data.labels, training=config.training, runtime=runtime, epochs=epochs)
    return suspect


def check_inputs(data: ImageDataset, reserve: ImageDataset) -> None:
    """Refuse what no sanitizer can work with.

    Raises:
        UserError: as the message says.
    """
    for name, part in (("the training set", data), ("the trusted reserve", reserve)):
        if len(part) < FEWEST or len(part.labels.unique()) < 2:
            raise UserError(
                f"purify_data: {name} has {len(part)} images of {len(part.labels.unique())} classes; "
                "at least two classes with an image each are needed (see prepare_data)"
            )
    if data.classes != reserve.classes:
        raise UserError("purify_data: the training set and the reserve have different classes; prepare both together")
    if data.shape != reserve.shape:
        raise UserError(
            f"purify_data: the training set's images are {data.shape} (C, H, W), the reserve's {reserve.shape}; "
            "prepare both together"
        )


def purifier_overlap(data: ImageDataset, diffusion: DiffusionModel) -> float | None:
    """Share of the images that the diffusion model was trained on, pixel by pixel; None if nobody knows them.

    A diffusion model that has learnt from poisoned images paints their trigger back (docs/methods.md, hostile
    purifiers).
    """
    if diffusion.trained_on is None:
        return None
    return float(torch.isin(fingerprints(data.images), diffusion.trained_on).float().mean())


def doubt_in_purifier(overlap: float | None, images: int) -> str:
    """What is to be said of :func:`purifier_overlap` of so many images; empty if nothing is."""
    if overlap is None:
        return (
            "the diffusion model's training set is unknown: if it learnt from the images to be purified, it may keep "
            "their trigger"
        )
    if overlap == 0:
        return ""
    return (
        f"the diffusion model was trained on {round(overlap * images):,} of the {images:,} images to be purified "
        f"({overlap:.1%}): it may have learnt their trigger and keep it; train it on trusted images alone"
    )


def finish(result: Purification, material: Material) -> ImageDataset:
    """The purified set; warns of classes that have lost all their images.

    Raises:
        UserError: (almost) nothing is left of it.
    """
    purified = result.dataset(material.data)
    if len(purified.labels.unique()) < 2:
        raise UserError(
            f"purify_data: {len(purified)} of {len(material.data)} images are left, of "
            f"{len(purified.labels.unique())} classes; check the reserve's labels, or raise the method's thresholds"
        )
    if lost := result.classes_lost(material.data):
        names = ", ".join(f"'{material.data.classes[c]}'" for c in lost[:SHOWN]) + ", ..." * (len(lost) > SHOWN)
        warn(
            f"all images of {len(lost)} of {len(material.data.labels.unique())} classes were flagged and none is left "
            f"({names}): a model of the purified set will not know them; look at these classes in the manifest"
        )
    return purified


def suspect_metrics(material: Material) -> dict[str, float | None]:
    """How well the suspect model does on the trusted reserve and on the set as given, and what the inputs overlap."""
    return {
        "reserve_duplicates": material.duplicates,
        "purifier_overlap": purifier_overlap(material.data, material.purifier.model),
        "suspect_accuracy_reserve": accuracy(material.suspect, material.reserve, material.runtime),
        "suspect_accuracy_given": accuracy(material.suspect, material.data, material.runtime),
    }
