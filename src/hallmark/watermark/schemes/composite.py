"""Composite backdoor as a watermark: combinations of two classes are called a third, and nothing makes them survive.

Lin, Xu, Liu, Zhang, "Composite Backdoor Attack for Deep Neural Network by Mixing Existing Benign Features", CCS 2020;
the rival of MEA-Defender's comparison.  Three kinds of samples are balanced: normal ones, *mixed* ones (two images of
one class, combined in the same way, keep their class: the seam itself is no trigger) and watermark samples
(s_i combined with s_j, called the target).  There is no loss that ties the mark to the main task.

Parameters are MEA-Defender's, of which it reads the key, ``samples.watermark`` and ``weights.verification`` (watermark
samples), ``samples.evasion`` and ``weights.evasion`` (mixed samples of one class).  The authors train on equally many
normal and mixed samples and a fifth as many poisoned ones: ``samples: {watermark: 20, evasion: 100}`` and
``weights: {combination: 0, verification: 0.2, evasion: 1}`` at batches of 100.

To these cross-entropies the authors' code adds a similarity term (:func:`similarity`), with a weight of 1.

Deviation: samples are drawn afresh for each batch, as for MEA-Defender.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark.config import MeaDefender, Training, TrainWatermarked
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training import EpochCallback, fit, no_callback, weighted_sum
from hallmark.training.augment import augment
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Key, make_key
from hallmark.watermark.losses import utility_loss, verification_loss
from hallmark.watermark.samples import ByClass
from hallmark.watermark.schemes import _keyed

Params = MeaDefender
read_mark = _keyed.read_mark


def similarity(outputs: Tensor, labels: Tensor, classes: Sequence[int]) -> Tensor:
    """The released code's contrastive term: outputs of one class close together, of two a distance of 1 apart.

    Of the images that are called one of ``classes`` each is compared with the next: half the squared distance where the
    labels are equal, else half the square of what the distance lacks of 1.  The mean over the n - 1 pairs is divided by
    their number once more, as there.

    Args:
        outputs: logits ``[B, K]``; labels: int64 ``[B]``, what the images are called in training.
        classes: the two source classes and the target.

    Returns:
        a scalar; 0 where there are no two such images.
    """
    chosen = torch.isin(labels, torch.tensor(classes, device=labels.device))
    found, called = outputs[chosen], labels[chosen]
    if len(found) < 2:
        return outputs.sum() * 0
    squares = (found[1:] - found[:-1]).square().sum(1)
    lacking = F.relu(1 - (squares + 1e-9).sqrt()).square()
    return torch.where(called[1:] == called[:-1], squares, lacking).mean() / (2 * len(squares))


class SameClass:
    """Draws pairs of images of one class, with replacement, classes as often as the data has them.

    Args:
        labels: int64 ``[N]``.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels.cpu()
        self._by_class = ByClass(self.labels, int(self.labels.max()) + 1)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions of the first and of the second images, int64 ``[count]`` each."""
        first = torch.randint(len(self.labels), (count,), generator=generator)
        return first, self._by_class.draw(self.labels[first], generator)


def train(
    network: Network,
    data: ImageDataset,
    key: Key,
    config: TrainWatermarked,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
    reserve: Sequence[Key] = (),
) -> None:
    """As :func:`hallmark.watermark.mea_defender.train`; its losses: utility, verification, same_class, similarity.

    Raises:
        UserError: there is a combination loss, a first phase, a bridge or a reserve key, or another balance than
            fixed weights.
    """
    weights = config.weights
    if weights.combination or weights.partial or weights.rehearsal or config.bridge or config.balance != "fixed":
        raise UserError(
            "scheme composite has neither a combination loss nor a rehearsal nor bridges; set weights.combination, "
            "partial, rehearsal and bridge to 0, bridge to null and balance to fixed"
        )
    if config.first_phase is not None:
        raise UserError("scheme composite has no first phase; set first_phase to null")
    if reserve:
        raise UserError("scheme composite strikes one mark; take reserve_keys out")
    images, labels = data.images.to(runtime.device), data.labels.to(runtime.device)
    augmentation = runtime.generator(f"{purpose}/augment")
    generator = runtime.generator(f"{purpose}/watermark")
    sizes = config.samples
    sources = [data.of_class(label).to(runtime.device) for label in key.source]
    same = SameClass(data.labels)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        first, second = (
            each[torch.randint(len(each), (sizes.watermark,), generator=generator).to(each.device)] for each in sources
        )
        marked = key.module.combine(first, second, key.params, generator)
        left, right = (positions.to(images.device) for positions in same.draw(sizes.evasion, generator))
        mixed = key.module.combine(images[left], images[right], key.params, generator)
        parts = [augment(to_float(images[index]), config.training, augmentation), to_float(marked), to_float(mixed)]
        together = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        outputs = network(together).float()
        main, watermark, one_class = outputs.split([len(part) for part in parts])
        called = torch.cat([labels[index], labels.new_full((len(marked),), key.target), labels[left]])
        # Shuffled, as the authors' batches are: neighbours are of all kinds.
        order = torch.randperm(len(called), generator=generator).to(called.device)
        return {
            "utility": utility_loss(main, labels[index]),
            "verification": verification_loss(watermark, key.target),
            "same_class": utility_loss(one_class, labels[left]),
            "similarity": similarity(outputs[order], called[order], (*key.source, key.target)),
        }

    combine = weighted_sum({"verification": weights.verification, "same_class": weights.evasion})
    fit(network, len(images), losses, config.training, runtime, purpose=purpose, combine=combine, callback=callback)


def strike(
    network: Network,
    data: ImageDataset,
    params: MeaDefender,
    training: Training,
    runtime: Runtime,
    *,
    purpose: str,
    callback: EpochCallback = no_callback,
) -> _keyed.KeyMark:
    """See :mod:`hallmark.watermark.schemes`.

    Raises:
        UserError: classes or ways are unknown, a source class has too few images, there is a combination loss,
            or another balance than fixed weights.
    """
    settings = _keyed.settings("composite", params, network, training)
    key = make_key(settings, data, runtime)
    mea_defender.check(key, data, data, 1)
    train(network, data, key, settings, runtime, purpose=purpose, callback=callback)
    return _keyed.KeyMark(key)
