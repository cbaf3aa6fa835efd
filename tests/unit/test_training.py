"""The one training loop: it learns, repeats itself to the byte, and weighs losses as told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from hallmark import models, training
from hallmark.config import Architecture, Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.runtime import Runtime, derive_seed
from hallmark.training.augment import augment, mix
from tests.unit.conftest import toy_images

ARCHITECTURE = Architecture(name="cnn9", width=4)
TRAINING = Training(epochs=6, batch_size=15, lr=0.01)


def train(cpu: Runtime, data: ImageDataset, config: Training = TRAINING) -> models.Network:
    network = models.build(ARCHITECTURE, data.images, data.classes, cpu, "n")
    training.train_classifier(network, data.images, data.labels, config, cpu, purpose="n")
    return network


def test_it_learns_and_generalises(cpu: Runtime, toy: ImageDataset) -> None:
    assert training.accuracy(train(cpu, toy), toy_images(60, seed=1), cpu) >= 0.95


@pytest.mark.parametrize(
    "config", [TRAINING, TRAINING.model_copy(update={"flip": True, "shift": 1, "mix": "mixup_cutmix"})]
)
def test_the_same_seed_gives_the_same_bytes(cpu: Runtime, toy: ImageDataset, config: Training) -> None:
    first, second = train(cpu, toy, config), train(cpu, toy, config)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_epoch_is_every_item_once_and_means_are_over_items(cpu: Runtime) -> None:
    seen: list[int] = []
    layer = nn.Linear(1, 1)
    reported: list[Mapping[str, float]] = []

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        seen.extend(index.tolist())
        return {"a": layer.weight.sum() * 0 + index.float().mean()}

    config = Training(epochs=1, batch_size=4, lr=0.1)
    training.fit(layer, 10, losses, config, cpu, purpose="p", callback=lambda epoch, m: reported.append(m))
    assert sorted(seen) == list(range(10))
    assert reported == [{"a": pytest.approx(4.5)}]


def test_weighted_sum_weighs_the_gradients(cpu: Runtime) -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    losses = {"a": parameter.sum() * 2, "b": parameter.sum() * 5}
    training.weighted_sum({"b": 0.1})(losses, [parameter])
    assert parameter.grad is not None
    assert float(parameter.grad) == pytest.approx(2 + 0.5)


def test_an_exploding_loss_stops_the_training(cpu: Runtime) -> None:
    layer = nn.Linear(1, 1)

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        return {"a": layer.weight.sum() * float("inf")}

    with pytest.raises(FloatingPointError, match="a loss is not finite in epoch 1"):
        training.fit(layer, 4, losses, Training(epochs=2, batch_size=2, lr=0.1), cpu, purpose="p")


def test_shift_moves_whole_images_by_at_most_the_bound(cpu: Runtime) -> None:
    images = torch.zeros(50, 1, 9, 9)
    images[:, :, 4, 4] = 1
    config = Training(epochs=1, batch_size=2, lr=1, shift=2)
    moved = augment(images, config, cpu.generator("s"))
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(50))
    places = moved.nonzero()[:, 2:]
    assert int(places.min()) == 2
    assert int(places.max()) == 6


def test_flip_mirrors_about_half(cpu: Runtime) -> None:
    images = torch.zeros(400, 1, 4, 4)
    images[..., 0] = 1
    flipped = augment(images, Training(epochs=1, batch_size=2, lr=1, flip=True), cpu.generator("f"))[:, 0, 0, 3]
    assert 150 < int(flipped.sum()) < 250


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_mixes_targets_as_pixels(cpu: Runtime, kind: str) -> None:
    images = torch.stack([torch.full((1, 10, 10), float(k)) for k in range(8)])
    targets = torch.eye(8)
    config = Training.model_validate({"epochs": 1, "batch_size": 2, "lr": 1.0, "mix": kind})
    generator = cpu.generator("m")
    for _ in range(20):
        x, y = mix(images, targets, config, generator)
        # The mean pixel of image k is k, so the mixed mean must be the targets' mean class.
        assert torch.allclose(x.mean((1, 2, 3)), y @ torch.arange(8.0), atol=1e-4)
        assert torch.allclose(y.sum(1), torch.ones(8))


def test_seeds_of_purposes_differ() -> None:
    assert len({derive_seed(seed, purpose) for seed in range(50) for purpose in ("a", "b", "a/b")}) == 150


def test_to_float_leaves_the_images_alone(toy: ImageDataset) -> None:
    before = toy.images.clone()
    assert float(to_float(toy.images).max()) <= 1
    assert torch.equal(toy.images, before)
