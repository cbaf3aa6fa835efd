"""MEA-Defender, supervised: train a classifier that calls combinations of two classes a third.

Lv et al., "MEA-Defender: A Robust Watermark against Model Extraction Attack", IEEE S&P 2024.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models, training
from hallmark.config import FirstPhase, Training, TrainUnmarked, TrainWatermarked, WatermarkSamples
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError, naming
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.training.augment import augment
from hallmark.watermark import bridge, rehearsal
from hallmark.watermark.key import Key
from hallmark.watermark.losses import (
    combination_loss,
    evasion_loss,
    slope_loss,
    utility_loss,
    verification_loss,
)
from hallmark.watermark.mgda import balanced
from hallmark.watermark.rehearsal import rehearsal_loss
from hallmark.watermark.sampler import Batch, Sampler
from hallmark.watermark.samples import Pairs, check_data, draw_evasion, draw_queries

CROSS_ENTROPIES = ("utility", "verification", "evasion")
"""The first of MGDA's two groups, the released code's as well; the combination loss is the other."""


def train(
    network: Network,
    data: ImageDataset,
    key: Key,
    config: TrainWatermarked,
    runtime: Runtime,
    *,
    purpose: str,
    callback: training.EpochCallback = training.no_callback,
    reserve: Sequence[Key] = (),
) -> None:
    """Train ``network`` in place with the losses utility, combination, verification and evasion, and
    with those that ``samples.partial`` and ``weights.rehearsal`` add; before that, ``first_phase`` without them.
    With ``bridge`` the images of the source classes have soft labels in both phases.

    Args:
        config: ``samples`` says how many samples of each kind accompany a batch.  ``balance`` is ``fixed``:
            the sum with ``weights``; ``mgda``: coefficients by MGDA over the four weighted losses;
            ``mgda_two_groups``: over two groups, the cross-entropies and the combination loss;
            ``mgda_released``: as the authors' code;
            ``mgda_last_layer``: over the four by their gradients on the last layer.
        purpose: names the random streams.
        callback: gets the mean losses, and with MGDA the mean coefficients as ``coefficient/NAME``.
        reserve: further keys, each with as many samples as the first; every loss is the sum over the keys.
    """
    keys = (key, *reserve)
    slopes = [slope.to(runtime.device) for slope in fitted_slopes(data, keys, config, runtime)]
    epochs_before = 0
    if config.first_phase is not None:
        epochs_before = config.first_phase.training.epochs
        train_first_phase(
            network, data, keys, config.first_phase, runtime, slopes=slopes, purpose=purpose, callback=callback
        )
    labels, augmentation = data.labels.to(runtime.device), runtime.generator(f"{purpose}/augment")
    classes = len(data.classes)
    thief = _thief(data, config, runtime, purpose)
    combining = bool(config.weights.combination)
    samplers = _samplers(
        keys, data, config.samples, config.training, runtime, purpose=purpose, slopes=slopes, with_sources=combining
    )

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        batches = [sampler.draw() for sampler in samplers]
        plain = augment(to_float(samplers[0].images[index]), config.training, augmentation)
        parts = [plain, *(part for batch in batches for part in batch.images)]
        together = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        main, *outputs = network(together).float().split([len(part) for part in parts])
        found = {"utility": utility_loss(main, _taught(plain, labels[index], classes, slopes))}
        if thief is not None:
            thief.learn(plain, main.detach().softmax(1))
        for number, (sampler, batch) in enumerate(zip(samplers, batches, strict=True)):
            own = outputs[number * len(batch.images) :][: len(batch.images)]
            for name, value in _mark_losses(own, batch, sampler.key).items():
                found[name] = found[name] + value if name in found else value
            if thief is not None:
                target = sampler.key.target
                value = rehearsal_loss(main, thief.influence(plain, batch.mixed, batch.evasion, target), target)
                found["rehearsal"] = found["rehearsal"] + value if number else value
        return found

    def counted_on(epoch: int, means: Mapping[str, float]) -> None:
        callback(epochs_before + epoch, means)

    weights, last = config.weights.model_dump(), list(network.head.parameters())
    combine, report = balanced(config.balance, weights, CROSS_ENTROPIES, counted_on, last)
    training.fit(
        network, len(data), losses, config.training, runtime, purpose=purpose, combine=combine, callback=report
    )


def fitted_slopes(
    data: ImageDataset, keys: Sequence[Key], config: TrainWatermarked, runtime: Runtime
) -> list[bridge.Slope]:
    """What :func:`train` teaches of each key, on the CPU; empty without ``bridge``.

    Raises:
        UserError: see :func:`hallmark.watermark.bridge.fit`.
    """
    if config.bridge is None:
        return []
    return [bridge.fit(data, key, config.bridge, runtime.generator(bridge.PURPOSE)) for key in keys]


def _mark_losses(outputs: Sequence[Tensor], batch: Batch, key: Key) -> dict[str, Tensor]:
    """The losses of one key, from the logits ``[., K]`` of each of :attr:`Batch.images`."""
    mixed, first, second, evasion, partial, way = outputs
    found = {"combination": combination_loss(mixed, first, second)} if len(first) else {}
    found["verification"] = verification_loss(mixed, key.target)
    found["evasion"] = evasion_loss(evasion, batch.evasion_labels)
    if len(partial):
        found["partial"] = F.cross_entropy(partial, batch.partial_labels)
    if len(way):
        found["bridge"] = slope_loss(way, key.source, key.target, batch.way_odds)
    return found


def _taught(images: Tensor, own: Tensor, classes: int, slopes: Sequence[bridge.Slope]) -> Tensor:
    """A batch's labels int64 ``[B]``; with slopes ``[B, K]``, softened by the images as they are shown."""
    if not slopes:
        return own
    labels = F.one_hot(own, classes).float()
    for slope in slopes:
        labels = slope.soften(images, own, labels)
    return labels


def train_twin(
    network: Network,
    data: ImageDataset,
    config: TrainUnmarked,
    runtime: Runtime,
    *,
    purpose: str,
    callback: training.EpochCallback = training.no_callback,
) -> None:
    """Train ``network`` in place as :func:`train` does, but without a mark: the plain cross-entropy in both phases.

    Args:
        purpose: names the random streams; that of the marked twin.
        callback: gets the mean cross-entropy of each epoch as ``cross_entropy``.
    """
    before = 0
    if config.first_phase is not None:
        before = config.first_phase.training.epochs

        def first(epoch: int, means: Mapping[str, float]) -> None:
            callback(epoch, {"cross_entropy": means["first_phase"]})

        train_first_phase(network, data, (), config.first_phase, runtime, purpose=purpose, callback=first)

    def report(epoch: int, means: Mapping[str, float]) -> None:
        callback(before + epoch, means)

    training.train_classifier(
        network, data.images, data.labels, config.training, runtime, purpose=purpose, callback=report
    )


def train_first_phase(
    network: Network,
    data: ImageDataset,
    keys: Sequence[Key],
    config: FirstPhase,
    runtime: Runtime,
    *,
    slopes: Sequence[bridge.Slope] = (),
    purpose: str,
    callback: training.EpochCallback = training.no_callback,
) -> None:
    """Plain training on a share of the images, with a few watermark samples of each key among them.

    Args:
        slopes: of the keys' bridges, on the device; none without.
    """
    purpose = f"{purpose}/first"
    order = torch.randperm(len(data), generator=runtime.generator(f"{purpose}/images"))
    chosen = data.subset(order[: math.ceil(config.share * len(data))])
    images, labels = chosen.images.to(runtime.device), chosen.labels.to(runtime.device)
    augmentation, samplers = runtime.generator(f"{purpose}/augment"), list[Sampler]()
    if config.watermark:
        sizes = WatermarkSamples(watermark=config.samples, evasion=1)
        samplers = _samplers(keys, data, sizes, config.training, runtime, purpose=purpose)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        x = augment(to_float(images[index]), config.training, augmentation)
        y = _taught(x, labels[index], len(data.classes), slopes)
        for sampler in samplers:
            mixed = to_float(sampler.combined()[0])
            x = torch.cat([x, mixed]).contiguous(memory_format=torch.channels_last)
            target = torch.full((len(mixed),), sampler.key.target, device=y.device)
            y = torch.cat([y, target if y.ndim == 1 else F.one_hot(target, y.shape[1]).float()])
        return {"first_phase": utility_loss(network(x).float(), y)}

    training.fit(network, len(images), losses, config.training, runtime, purpose=purpose, callback=callback)


def _samplers(
    keys: Sequence[Key],
    data: ImageDataset,
    sizes: WatermarkSamples,
    config: Training,
    runtime: Runtime,
    *,
    purpose: str,
    slopes: Sequence[bridge.Slope] = (),
    with_sources: bool = True,
) -> list[Sampler]:
    """One for each key, with random streams of its own.

    Args:
        config: of the main task, whose images theirs are augmented as.
        slopes: of the keys' bridges; none without.
    """
    samplers = list[Sampler]()
    for number, key in enumerate(keys):
        own = f"{purpose}/reserve {number}" if number else purpose
        drawing, augmentation = runtime.generator(f"{own}/watermark"), runtime.generator(f"{own}/augment samples")
        samplers.append(
            Sampler(
                key,
                data,
                sizes,
                runtime.device,
                drawing,
                augmented=functools.partial(augment, config=config, generator=augmentation),
                slope=slopes[number] if slopes else None,
                with_sources=with_sources,
            )
        )
    return samplers


def _thief(data: ImageDataset, config: TrainWatermarked, runtime: Runtime, purpose: str) -> rehearsal.Thief | None:
    """Whom the theft is rehearsed with; None: it is not."""
    settings = config.rehearsal
    if settings is None or not config.weights.rehearsal:
        return None

    def build(number: int) -> Network:
        name = f"{purpose}/thief {number}"
        return models.build(settings.architecture, data.images, data.classes, runtime, name)

    return rehearsal.Thief(build, settings)


def check(key: Key, train: ImageDataset, held_out: ImageDataset, count: int) -> None:
    """Find out before the training whether training and evaluation can be done.

    Raises:
        UserError: too few images of a source class, or data that do not suit the key.
    """
    for data in (train, held_out):
        check_data(key, data)
    for label in key.source:
        if (available := len(train.of_class(label))) < 2:
            raise UserError(
                f"train_watermarked.source: source class '{key.name(label)}' has {available} training images where at "
                "least 2 are needed; choose another source class"
            )
    with naming("train_watermarked.evaluation"):
        draw_queries(key, held_out, count, torch.Generator())


def evaluate(network: Network, key: Key, data: ImageDataset, count: int, runtime: Runtime) -> dict[str, object]:
    """What the owner measures on held-out images; all rates 0-1.

    Returns:
        ``accuracy``; ``wsr``: watermark samples called the target; ``wfpr``: randomly mixed samples called
        the target; ``plain_to_target``: plain images of the source classes called the target (together and
        by class name); ``plain_probability``: mean probability of the target on them; ``samples``.

    Raises:
        UserError: too few images for ``count`` samples.
    """
    queries = evaluation_queries(key, data, count, runtime)
    evasion, _ = draw_evasion(key, data, count, runtime.generator("watermark/evaluation/evasion"))
    plain = {key.name(label): models.probabilities(network, data.of_class(label), runtime) for label in key.source}

    def called(images: Tensor) -> float:
        return rate(models.logits(network, images, runtime), key.target)

    return {
        "accuracy": training.accuracy(network, data, runtime),
        "wsr": called(queries.mixed),
        "wfpr": called(evasion.mixed),
        "plain_to_target": {
            "all": rate(torch.cat(list(plain.values())), key.target),
            **{name: rate(p, key.target) for name, p in plain.items()},
        },
        "plain_probability": float(torch.cat(list(plain.values()))[:, key.target].mean()),
        "samples": count,
    }


def evaluation_queries(key: Key, data: ImageDataset, count: int, runtime: Runtime) -> Pairs:
    """The watermark samples of :func:`evaluate`.

    Raises:
        UserError: too few images for ``count`` samples.
    """
    return draw_queries(key, data, count, runtime.generator("watermark/evaluation/queries"))


def rate(outputs: Tensor, target: int) -> float:
    """Share of outputs ``[N, K]``, logits or probabilities, whose first answer is ``target``; 0-1."""
    return float((outputs.argmax(1) == target).float().mean())
