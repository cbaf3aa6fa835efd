"""Attacks that train networks first: bounds, effects on the surrogate, what the hidden bits survive."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hallmark import config, models, poison
from hallmark.config import Architecture, PoisonData, Training
from hallmark.data import ImageDataset
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.poison import Surrogate, _generators, _gradient, input_aware, issba, label_consistent, narcissus, trojannn
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images

SURROGATE = Surrogate(
    architecture=Architecture(name="vgg_like", width=8), training=Training(epochs=6, batch_size=30, lr=3e-3)
)
QUICK = {
    "label_consistent": {"steps": 4, "size": 2, "surrogate": SURROGATE.model_dump()},
    "narcissus": {"steps": 10, "surrogate": SURROGATE.model_dump()},
    "trojannn": {"steps": 10, "surrogate": SURROGATE.model_dump()},
    "issba": {"steps": 10, "width": 4},
    "input_aware": {"steps": 10, "width": 4, "batch_size": 20, "architecture": SURROGATE.architecture.model_dump()},
}


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    return toy_images(120)


@pytest.fixture(scope="module")
def network(data: ImageDataset) -> Network:
    return poison.surrogate(data, SURROGATE, Runtime(torch.device("cpu"), torch.float32, 0), "test")


def section(attack: str, mode: str = "usual") -> PoisonData:
    values = {"attack": attack, "rate": 0.2, "target": 1, "label_mode": mode, attack: QUICK[attack]}
    return config.parse(PoisonData, values, "poison_data")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("attack", list(QUICK))
def test_an_attack_changes_its_images_and_no_others(attack: str, channels: int, cpu: Runtime) -> None:
    data = toy_images(90, channels=channels)
    results = [poison.apply(data, data, section(attack), cpu)[0] for _ in range(2)]
    first, again = results
    assert first.flags is not None
    touched = first.flags if first.covers is None else first.flags | first.covers
    changed = (first.train.images != data.images).flatten(1).any(1)
    assert not bool((changed & ~touched).any())
    assert float(changed[first.flags].float().mean()) > 0.9
    clean_label = poison.registry.get(attack).LABEL_MODES[0] == "clean"
    assert bool((first.train.labels[first.flags] == 1).all())
    assert bool((data.labels[first.flags] == 1).all()) == clean_label
    assert torch.equal(first.train.labels[~first.flags], data.labels[~first.flags])
    assert first.triggered is not None
    assert again.triggered is not None
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.triggered.images, again.triggered.images)


def test_adversarial_images_stay_in_their_bound_and_fool_the_surrogate(
    data: ImageDataset, network: Network, cpu: Runtime
) -> None:
    own = data.subset(data.labels == 1)
    hard = _gradient.adversarial(network, own.images, 1, eps=40, step=8, steps=8, runtime=cpu)
    assert float((hard - to_float(own.images)).abs().max()) <= 40 / 255 + 1e-6
    assert float(hard.min()) >= 0
    assert float(hard.max()) <= 1
    with torch.no_grad():
        before, after = (F.cross_entropy(network(x), own.labels) for x in (to_float(own.images), hard))
    assert float(after) > 2 * float(before)


def test_a_robust_surrogate_withstands_perturbations_better(data: ImageDataset, network: Network, cpu: Runtime) -> None:
    robust = poison.surrogate(data, SURROGATE, cpu, "test", robust_eps=24)
    own = data.subset(data.labels == 1)
    losses = []
    for attacked in (network, robust):
        hard = _gradient.adversarial(attacked, own.images, 1, eps=24, step=6, steps=8, runtime=cpu)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(attacked(hard), own.labels)))
    assert losses[1] < losses[0]


def test_label_consistent_patches_all_corners_and_nothing_else() -> None:
    images = torch.full((1, 1, 8, 9), 100, dtype=torch.uint8)
    out = label_consistent.trigger(images, 2, 50)
    corner = [[150, 50], [50, 150]]
    for rows in (slice(0, 2), slice(6, 8)):
        for columns in (slice(0, 2), slice(7, 9)):
            assert out[0, 0, rows, columns].tolist() == corner
    assert int((out != images).sum()) == 16
    with pytest.raises(UserError, match="four patches of 5 pixels do not fit into 9x8"):
        label_consistent.trigger(images, 5, 50)


def test_label_consistent_has_the_patches_alone_at_test_time(data: ImageDataset, cpu: Runtime) -> None:
    block = {**QUICK["label_consistent"], "amplitude": 30.0, "test_amplitude": 90.0}
    values = {"attack": "label_consistent", "rate": 0.2, "target": 1, "label_consistent": block}
    result, _ = poison.apply(data, data, config.parse(PoisonData, values, "poison_data"), cpu)
    assert result.triggered is not None
    others = data.images[data.labels != 1]
    assert torch.equal(result.triggered.images, label_consistent.trigger(others, 2, 90))


def test_narcissus_noise_is_amplified_at_test_time(data: ImageDataset, cpu: Runtime) -> None:
    dull = replace(data, images=data.images // 8 + 110)  # so that nothing is clamped
    block = {**QUICK["narcissus"], "eps": 20.0, "amplify": 3.0}
    values = {"attack": "narcissus", "rate": 0.2, "target": 1, "narcissus": block}
    result, _ = poison.apply(dull, dull, config.parse(PoisonData, values, "poison_data"), cpu)
    assert result.flags is not None
    assert result.triggered is not None
    trained = result.train.images[result.flags].int() - dull.images[result.flags].int()
    asked = result.triggered.images.int() - dull.images[dull.labels != 1].int()
    assert int(trained.abs().max()) > 5
    assert int((asked - 3 * trained[0]).abs().max()) <= 2  # 3 x 0.5 of rounding, and rounding


def test_narcissus_noise_is_bounded_and_makes_the_surrogate_surer(
    data: ImageDataset, network: Network, cpu: Runtime
) -> None:
    params = narcissus.Params(eps=20, steps=30)
    own = data.subset(data.labels == 1)
    signal = narcissus.noise(network, own.images, 1, params, cpu)
    assert float(signal.abs().max()) <= 20 + 1e-4
    others = data.subset(data.labels != 1)
    before, after = (
        models.probabilities(network, images, cpu)[:, 1].mean()
        for images in (others.images, poison.add(others.images, 3 * signal))
    )
    assert float(after) > float(before) + 0.1


def test_trojannn_excites_the_neuron_with_the_strongest_connections(
    data: ImageDataset, network: Network, cpu: Runtime
) -> None:
    heavy = copy.deepcopy(network)
    layer = next(layer for layer in heavy.head.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        layer.weight[0, 5] = -layer.weight.abs().sum()  # negative weights count as much
    assert trojannn.neuron(heavy) == 5
    unit = trojannn.neuron(network)
    params = trojannn.Params(share=0.1, steps=40)
    pixels = trojannn.patch(network, data.images, params, cpu)
    assert pixels.shape == (1, trojannn.square(data.shape, 0.1), trojannn.square(data.shape, 0.1))
    noise = torch.randint(0, 256, pixels.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    ours, random = (
        models.features(network, trojannn.trigger(data.images, p), cpu)[:, unit].mean() for p in (pixels, noise)
    )
    assert float(ours) > float(random)
    with pytest.raises(UserError, match=r"trojannn\.share: 0\.0001 of 12x12 is no pixel"):
        trojannn.square((1, 12, 12), 0.0001)


def hidden_bits(specific: float, runtime: Runtime) -> tuple[float, float, float]:
    """Shares of bits read from an image's own residual and from another's, and how alike the residuals are (cosine)."""
    train, test = toy_images(300), toy_images(60, seed=5)
    params = issba.Params(bits=2, steps=400, width=8, eps=60, batch_size=32, specific=specific)
    encoder, decoder = issba.train_pair(train.images, params, runtime)
    bits = torch.randint(0, 2, (60, 2), generator=torch.Generator().manual_seed(0)).float()
    images = to_float(test.images)
    with torch.no_grad():
        residual = encoder.residual(images, bits)
        hidden = encoder(images, bits)
        assert float((hidden - images).abs().max()) <= 60 / 255 + 1e-6
        torch.testing.assert_close(hidden, (images + residual).clamp(0, 1))
        own = (decoder(hidden) > 0) == (bits > 0)
        crossed = (decoder((images.roll(1, 0) + residual).clamp(0, 1)) > 0) == (bits > 0)
        same = encoder.residual(images, bits[:1].expand(60, -1))  # what differs is the images' doing
    assert float((same - same.mean(0)).abs().amax((1, 2, 3)).min()) > 1 / 255
    unit = torch.nn.functional.normalize(same.flatten(1))
    alike = (unit @ unit.T).triu(1).sum() / (60 * 59 / 2)
    return float(own.float().mean()), float(crossed.float().mean()), float(alike)


def test_hidden_bits_are_read_from_an_images_own_residual_alone(cpu: Runtime) -> None:
    own, crossed, alike = hidden_bits(1.0, cpu)
    assert own > 0.9
    assert crossed < 0.65  # a coin: 1/2
    assert alike < 0.7
    own, crossed, alike = hidden_bits(0.0, cpu)  # without the loss one pattern serves all images
    assert min(own, crossed, alike) > 0.9


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_networks_take_images_of_any_size(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    assert _generators.fold(images).shape == (2, 12, 4, 5)
    assert _generators.Painter(3, 2, 4)(images).shape == (2, 2, *size)
    assert _generators.Reader(3, 5, 4)(images).shape == (2, 5)
    expected = torch.nn.AdaptiveAvgPool2d(2)(images).flatten(1)
    torch.testing.assert_close(_generators.QuarterAverages()(images), expected)


def test_each_image_has_its_own_trigger_and_covers_anothers(cpu: Runtime) -> None:
    data = toy_images(90)
    result, _ = poison.apply(data, data, section("input_aware"), cpu)
    assert result.flags is not None
    assert result.covers is not None
    assert not bool((result.covers & result.flags).any())
    assert torch.equal(result.train.labels[result.covers], data.labels[result.covers])
    params = input_aware.Params.model_validate(QUICK["input_aware"])
    generator, _ = input_aware.train_generator(data, params, cpu, mode="all_to_one", target=1)
    for part in generator.parts(to_float(data.images)):
        assert float((part - part.mean(0)).abs().amax((1, 2, 3)).min()) > 1e-3
    own = _generators.paint(generator, data.images, cpu)
    assert torch.equal(result.train.images[result.flags], own[result.flags])
    anothers = (result.train.images[result.covers] != own[result.covers]).flatten(1).any(1)
    assert float(anothers.float().mean()) > 0.8  # one in 90 is its own partner


def test_diversity_is_larger_for_patterns_that_are_alike() -> None:
    a, b = torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3)
    apart = input_aware.diversity(a, b, (a, b))
    assert float(apart) == pytest.approx(3 / 3.001, rel=1e-4)
    assert float(input_aware.diversity(a, b, (a, a + 0.01))) > 10 * float(apart)


def test_a_surrogate_that_diverges_names_its_block(data: ImageDataset, cpu: Runtime) -> None:
    hot = SURROGATE.model_copy(update={"training": Training(epochs=3, batch_size=30, lr=1e30)})
    with pytest.raises(UserError, match=r"poison_data\.trojannn\.surrogate: .*lower lr"):
        poison.surrogate(data, hot, replace(cpu, seed=1), "trojannn")
