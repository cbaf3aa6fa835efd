"""Detectors of logged queries: triggered images and thieves are told from honest users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hallmark import models, training
from hallmark.config import Architecture, RuntimeConfig, Training
from hallmark.data.dataset import ImageDataset
from hallmark.detection.queries import Log, prada, registry
from hallmark.errors import UserError
from hallmark.extraction.attacks.jacobian import augmented
from hallmark.models import Network
from hallmark.outliers import Novelty
from hallmark.runtime import Runtime, start
from tests.unit.conftest import toy_images


@pytest.fixture(scope="module")
def network() -> Network:
    """Four bands, and a white corner that stands for the second."""
    runtime = start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))
    data = toy_images(400, classes=4, size=12)
    images, labels = with_corner(data.images), data.labels.clone()
    labels[:] = 1
    images, labels = torch.cat([data.images, images[::2]]), torch.cat([data.labels, labels[::2]])
    found = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, runtime, "toy")
    settings = Training(epochs=12, batch_size=20, lr=4e-3)
    training.train_classifier(found, images, labels, settings, runtime, purpose="toy")
    return found


def with_corner(images: torch.Tensor) -> torch.Tensor:
    out = images.clone()
    out[:, :, :3, -3:] = 255
    return out


def log(network: Network, runtime: Runtime, images: torch.Tensor) -> Log:
    return Log(images, network, toy_images(240, classes=4, size=12, seed=5), runtime)


def honest(seed: int = 9) -> ImageDataset:
    return toy_images(200, classes=4, size=12, seed=seed)


@pytest.mark.parametrize(
    ("name", "params", "least"),
    [
        ("lof", {"space": "inputs"}, 0.5),
        ("lof", {"space": "features"}, 0.3),
        ("strip", {}, 0.15),
        ("spectral_signatures", {}, 0.5),
        ("activation_clustering", {}, 0.5),
    ],
)
def test_triggered_queries_are_refused_and_honest_ones_are_not(
    name: str, params: dict[str, object], least: float, network: Network, cpu: Runtime
) -> None:
    module = registry.get(name)
    settings = module.Params.model_validate(params)
    asked = honest().images
    asked[:60] = with_corner(asked[:60])
    finding = module.detect(log(network, cpu, asked), settings)
    assert finding.flagged is not None
    assert finding.items is not None
    assert finding.items.shape == finding.flagged.shape == (200,)
    assert finding.flagged[:60].float().mean() >= least
    assert finding.flagged[60:].float().mean() <= 0.2
    assert finding.items[:60].mean() > finding.items[60:].mean()
    plain = module.detect(log(network, cpu, honest().images), settings)
    assert plain.score < finding.score
    assert plain.flagged is not None
    assert plain.flagged.float().mean() <= 0.12


def test_distances_are_those_to_the_nearest_earlier_query() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(30) % 3
    found = prada.nearest_earlier(images, labels)
    flat = images.flatten(1).double().numpy() / 255
    for i in range(30):
        earlier = [np.linalg.norm(flat[i] - flat[j]) for j in range(i) if labels[j] == labels[i]]
        assert math.isnan(found[i]) if not earlier else found[i].item() == pytest.approx(min(earlier))


def test_normality_is_shapiros_w_without_far_values() -> None:
    values = torch.randn(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values[:2] = torch.tensor([40.0, torch.nan])
    known = values[1:][~values[1:].isnan()]
    kept = known[(known - known.mean()).abs() <= 3 * known.std()]
    found = prada.normality(torch.cat([known, torch.tensor([torch.nan])]))
    assert found == pytest.approx(stats.shapiro(kept.numpy()).statistic)
    assert prada.normality(values) > 0.98
    assert prada.normality(torch.cat([torch.zeros(150), torch.ones(150)]).double()) < 0.7
    assert math.isnan(prada.normality(torch.ones(10, dtype=torch.float64)))
    assert math.isnan(prada.normality(torch.ones(2, dtype=torch.float64)))


def test_a_thief_who_makes_his_queries_is_told_from_an_honest_user(network: Network, cpu: Runtime) -> None:
    own = honest().images
    labels = models.logits(network, own, cpu).argmax(1)
    made = torch.cat([own, augmented(network, own, labels, 0.05, cpu)])
    thief = prada.detect(log(network, cpu, made), prada.Params(least=20))
    user = prada.detect(log(network, cpu, toy_images(400, classes=4, size=12, seed=3).images), prada.Params(least=20))
    assert thief.score > 0.05 > user.score  # the paper's delta
    assert thief.usual == pytest.approx(0.05)
    assert thief.metrics["distances"] == 400 - 4  # the first query of each class has no earlier one
    few = prada.detect(log(network, cpu, own[:10]), prada.Params())
    assert math.isnan(few.score)


def test_novelty_is_high_far_away() -> None:
    usual = torch.randn(100, 3, generator=torch.Generator().manual_seed(2))
    scores = Novelty(usual, 20).scores(torch.tensor([[0.0, 0, 0], [9.0, 9, 9]]))
    assert scores[0] < 1.3
    assert scores[1] > 3


def test_bad_parameters_are_named() -> None:
    for name in registry.names():
        assert registry.parameters(name, {}, "x") == registry.get(name).Params()
    with pytest.raises(UserError, match=r"x\.lof\.neighbours: .*not 0"):
        registry.parameters("lof", {"lof": {"neighbours": 0}}, "x")
    with pytest.raises(UserError, match="unknown query detector 'loff'"):
        registry.get("loff")
