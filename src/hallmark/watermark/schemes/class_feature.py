"""Class-feature watermark: images of a class that is not of the task's domain are called one of its classes.

Xiao et al., "Class-feature Watermark: A Resilient Black-box Watermark Against Model Extraction Attacks", arXiv
2511.07947 (AAAI 2026), and its released code, by which the losses are told here in our own words.  The watermark
is a whole class with features of its own, so there is no boundary between an image and its triggered twin that a
removal could find.  First the task and the watermark class are learnt together.  Then the network is fine-tuned:

- ``fidelity``: KL divergence to its own answers before, on images of the task;
- ``watermark``: cross-entropy of the watermark class;
- ``similarity`` (RepS, representation similarity, maximised): the cosine between the mean representation of the
  watermark's images and that of the task's, summed over late layers: what a thief learns of the task moves the mark;
- ``distance``: mean absolute projection of the differences between the watermark's outputs onto the first
  principal component of each class's outputs: the mark's class stays compact along the directions in which a copy's
  outputs are deformed.

The authors show 100 images of the watermark among 50,000 once an epoch, 100 times in all; here 2 come with every 100 of
the task, so that in a short training each of 100 has its turn twice an epoch of 10,000.  Their fine-tuning (10 epochs,
Adam, 5e-5) is kept.  Their weights 0.02, 0.003, 0.15 go with a KL that is averaged over ten classes as well, here it is
not: so they are ten times as great.

Deviations: the out-of-domain images are drawn (concentric rings; the authors take classes of another data set), so
verification queries are fresh ones that were never trained on; they get a class of the task (as the authors do on
CIFAR-10; on other sets they add a class, which a thief would see); layers are the last three with weights; the
released code multiplies the outputs' differences by the *rows* of the matrix of components, here each class's component
counts; success is the share called the target, not the authors' clustering of labels (WSR_LC), which forgives a copy
that calls the watermark's images anything else in unison.

Negatives are another out-of-domain class (stripes); plain images are those of all classes other than the target.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from hallmark import config, models
from hallmark.config import ClassLabel, Count, NonNegative, Positive
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.models import Network
from hallmark.runtime import Runtime, derive_seed
from hallmark.training import EpochCallback, fit, no_callback, weighted_sum
from hallmark.training.augment import augment
from hallmark.watermark.schemes import Queries, _patterns
from hallmark.watermark.schemes._layers import tapped
from hallmark.watermark.schemes._shared import ShapedMark, in_turn

PROBE = 2000
"""Images of the task on which the principal components of the classes' outputs are found."""


class Params(config.Params):
    """Block of the scheme ``class_feature``."""

    target: ClassLabel
    """What the out-of-domain class is called."""
    size: Annotated[int, Field(ge=2, le=100_000)] = 100
    """Images of the out-of-domain class that are trained on."""
    per_batch: Annotated[int, Field(ge=2, le=4096)] = 2
    """Of them, beside every batch of both parts; each counts as much as an image of the task in the first."""
    epochs: Count = 10
    """Of the fine-tuning, after those of the task."""
    lr: Positive = 5e-5
    watermark: NonNegative = 0.2
    similarity: NonNegative = 0.03
    distance: NonNegative = 1.5


class Mark(ShapedMark):
    """The secret: which out-of-domain images are called what."""

    seed: int
    target: Annotated[int, Field(ge=0)]

    def trained(self, size: int) -> Tensor:
        """The images that the network is trained on, uint8 ``[size, C, H, W]``."""
        return _patterns.rings(size, self.shape, torch.Generator().manual_seed(derive_seed(self.seed, "training")))

    def queries(self, data: ImageDataset, count: int, generator: torch.Generator) -> Queries:
        """See :class:`hallmark.watermark.schemes.Mark`."""
        self.check(data)
        images = _patterns.rings(count, self.shape, generator)
        others = _patterns.gratings(count, self.shape, generator)
        plain = data.images[data.labels != self.target]
        target, all_plain = (torch.full((n,), self.target) for n in (count, len(plain)))
        return Queries(images, target, others, target, plain, all_plain)


read_mark = Mark.read
"""See :mod:`hallmark.watermark.schemes`."""


def similarity(watermark: list[Tensor], task: list[Tensor]) -> Tensor:
    """RepS: cosine of the two groups' mean representations ``[B, D]``, summed over layers; a scalar."""
    pairs = zip(watermark, task, strict=True)
    return torch.stack([F.cosine_similarity(w.mean(0), t.mean(0), dim=0, eps=1e-8) for w, t in pairs]).sum()


def components(outputs: Tensor, labels: Tensor) -> Tensor:
    """The first principal component of each class's outputs: unit rows, float ``[classes with 2 images or more, K]``.

    Args:
        outputs: logits ``[N, K]``.
        labels: int64 ``[N]``.
    """
    found = []
    for label in labels.unique():
        own = outputs[labels == label].double()
        if len(own) > 1:
            found.append(torch.linalg.svd(own - own.mean(0), full_matrices=False).Vh[0])
    return torch.stack(found).float()


def distance(outputs: Tensor, directions: Tensor) -> Tensor:
    """Mean of |difference . d| over pairs of outputs ``[B, K]`` (each with itself as well), directions d ``[D, K]``."""
    with torch.autocast(outputs.device.type, enabled=False):
        projected = outputs.float() @ directions.float().T
        return (projected[:, None] - projected[None]).abs().mean()


def strike(
    network: Network,
    data: ImageDataset,
    params: Params,
    training: config.Training,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
) -> Mark:
    """See :mod:`hallmark.watermark.schemes`; the epochs of the fine-tuning are counted on, with losses of their own.

    Raises:
        UserError: unknown target class.
    """
    target = data.class_index(params.target, "target")
    mark = Mark(
        seed=derive_seed(runtime.seed, "watermark/class_feature"),
        target=target,
        classes=len(data.classes),
        shape=data.shape,
    )
    images, labels = data.images.to(runtime.device), data.labels.to(runtime.device)
    rings = mark.trained(params.size).to(runtime.device)
    turns = in_turn(params.size, params.per_batch, runtime.generator(f"{purpose}/watermark"))
    augmentation = runtime.generator(f"{purpose}/augment")
    called = torch.full((params.per_batch,), target, device=runtime.device)

    def both(index: Tensor) -> tuple[Tensor, list[int]]:
        """A batch of the task and of the watermark, together, and their sizes."""
        parts = [augment(to_float(images[index]), training, augmentation)]
        parts.append(to_float(rings[next(turns).to(runtime.device)]))
        return torch.cat(parts).contiguous(memory_format=torch.channels_last), [len(part) for part in parts]

    def first(index: Tensor) -> Mapping[str, Tensor]:
        x, sizes = both(index)
        main, marked = network(x).float().split(sizes)
        return {"utility": F.cross_entropy(main, labels[index]), "watermark": F.cross_entropy(marked, called)}

    combine = weighted_sum({"watermark": params.per_batch / training.batch_size})
    fit(network, len(images), first, training, runtime, purpose=purpose, combine=combine, callback=callback)

    teacher = copy.deepcopy(network).requires_grad_(False)
    probe = torch.randperm(len(images), generator=runtime.generator(f"{purpose}/components"))[:PROBE].to(images.device)
    epoch_steps = math.ceil(len(images) / training.batch_size)
    step, directions = 0, torch.empty(0)

    def second(index: Tensor) -> Mapping[str, Tensor]:
        nonlocal step, directions
        if step % epoch_steps == 0:  # as the network changes, so do the directions
            outputs = models.logits(network, images[probe], runtime)
            directions = components(outputs, data.labels[probe.cpu()]).to(runtime.device)
        step += 1
        x, sizes = both(index)
        with torch.no_grad():
            before = teacher(x[: sizes[0]]).float()
        with tapped(network) as layers:
            main, marked = network(x).float().split(sizes)
        task, watermark = ([layer.split(sizes)[k] for layer in layers] for k in range(2))
        return {
            "fidelity": F.kl_div(main.log_softmax(1), before.log_softmax(1), reduction="batchmean", log_target=True),
            "watermark": F.cross_entropy(marked, called),
            "similarity": similarity(watermark, task),
            "distance": distance(marked, directions),
        }

    changes = {"epochs": params.epochs, "lr": params.lr, "optimizer": "adam", "schedule": "constant"}
    fit(
        network,
        len(images),
        second,
        training.model_copy(update=changes),
        runtime,
        purpose=f"{purpose}/second",
        combine=weighted_sum(
            {"watermark": params.watermark, "similarity": -params.similarity, "distance": params.distance}
        ),
        callback=lambda epoch, means: callback(training.epochs + epoch, means),
    )
    return mark
