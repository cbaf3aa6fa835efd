"""Thieves of encoders: what they ask, what they fit, other feature sizes, blocks that are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hallmark import models, training
from hallmark.config import Architecture, Training
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Oracle, Thief
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.ssl.thieves import registry, thief_params
from tests.unit.conftest import toy_images

BLOCK: dict[str, Any] = {
    "method": "regression",
    "budget": 60,
    "architecture": {"name": "cnn9", "width": 8},
    "training": {"epochs": 30, "batch_size": 20, "lr": 3e-3},
}


@pytest.fixture
def victim(cpu: Runtime) -> Network:
    """Trained, so that its features vary."""
    data = toy_images(90)
    network = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, cpu, "victim")
    settings = Training(epochs=10, batch_size=15, lr=3e-3)
    training.train_classifier(network, data.images, data.labels, settings, cpu, purpose="victim")
    return network


def steal(victim: Network, cpu: Runtime, data: ImageDataset, **changes: Any) -> tuple[Network, Oracle]:
    module, params = thief_params({**BLOCK, **changes}, "t")
    oracle = Oracle(lambda images: models.features(victim, images, cpu), params.budget)
    return module.steal(oracle, Thief(data, cpu, "thief", where="t"), params), oracle


def distance(victim: Network, copy: Network, images: Tensor, cpu: Runtime) -> float:
    """Share of the variance of the victim's features that the copy's miss."""
    theirs, ours = models.features(victim, images, cpu), models.features(copy, images, cpu)
    return float((theirs - ours).square().sum() / (theirs - theirs.mean(0)).square().sum())


@pytest.mark.parametrize("method", ["regression", "stolen_encoder"])
def test_a_copy_has_the_victims_features_on_images_that_nobody_asked(
    cpu: Runtime, victim: Network, method: str
) -> None:
    fresh = toy_images(60, seed=9).images
    copy, oracle = steal(victim, cpu, toy_images(90, seed=1), method=method)
    stranger = models.build(Architecture(name="cnn9", width=8), fresh, victim.spec.classes, cpu, "thief/init")
    assert oracle.used == 60
    assert distance(victim, copy, fresh, cpu) < 0.5 * distance(victim, stranger, fresh, cpu)
    again, _ = steal(victim, cpu, toy_images(90, seed=1), method=method)
    assert torch.equal(models.features(again, fresh, cpu), models.features(copy, fresh, cpu))


def test_views_of_stolen_encoder_count_by_their_weight(cpu: Runtime, victim: Network) -> None:
    data, fresh = toy_images(90, seed=1), toy_images(20, seed=9).images
    copies = [
        steal(victim, cpu, data, method="stolen_encoder", weight=weight, training={**BLOCK["training"], "epochs": 1})[0]
        for weight in (1e-9, 5.0)
    ]
    plain = steal(victim, cpu, data, training={**BLOCK["training"], "epochs": 1})[0]
    first, second, third = (models.features(network, fresh, cpu) for network in (*copies, plain))
    torch.testing.assert_close(first, third, atol=5e-3, rtol=0)
    assert not torch.allclose(second, third, atol=5e-2)


def unexplained(ours: Tensor, theirs: Tensor) -> float:
    """Share of the variance of ``theirs`` that a linear map of ``ours`` misses, fitted on all but the last 60 images.

    Ridge on standardised features: a plain fit takes units that hardly ever fire at their word and misses by any
    amount on the next image where one does.
    """
    fit = slice(None, -60)
    mean, spread = models.standardisation(ours[fit])
    x = ((ours - mean) / spread).double()
    y = (theirs - theirs[fit].mean(0)).double()
    ridge = 0.01 * len(x[fit]) * torch.eye(x.shape[1], dtype=torch.float64)
    found = x[-60:] @ torch.linalg.solve(x[fit].T @ x[fit] + ridge, x[fit].T @ y[fit])
    return float((found - y[-60:]).square().sum() / y[-60:].square().sum())


def test_another_feature_size_is_adapted(cpu: Runtime, victim: Network) -> None:
    """The victim's features can be read off a narrower copy's, better than off a network that copied nothing."""
    data, fresh = toy_images(90, seed=1), toy_images(300, seed=9).images
    copy, _ = steal(victim, cpu, data, architecture={"name": "resnet18", "width": 8})
    assert models.features(copy, fresh, cpu).shape[1] == 64
    small: dict[str, Any] = {"name": "cnn9", "width": 4}
    narrow, _ = steal(victim, cpu, data, architecture=small)
    stranger = models.build(Architecture(**small), fresh, victim.spec.classes, cpu, "thief/init")
    theirs = models.features(victim, fresh, cpu)
    copied, fresh_start = (unexplained(models.features(net, fresh, cpu), theirs) for net in (narrow, stranger))
    assert models.features(narrow, fresh, cpu).shape[1] == 32 and theirs.shape[1] == 64
    assert copied < 0.5 * fresh_start


def test_more_queries_than_images_are_refused(cpu: Runtime, victim: Network) -> None:
    with pytest.raises(UserError, match=r"t\.budget: 91 exceeds the query set of 90 images"):
        steal(victim, cpu, toy_images(90), budget=91)


def test_answers_that_are_no_features_are_refused(cpu: Runtime) -> None:
    module, params = thief_params(BLOCK, "t")
    for answer in (torch.zeros(60), torch.full((60, 3), torch.nan)):
        oracle = Oracle(lambda images, answer=answer: answer, 60)
        with pytest.raises(UserError, match=r"t: the victim gives .*, no finite features"):
            module.steal(oracle, Thief(toy_images(90), cpu, "thief", where="t"), params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "unknown thief of encoders 'magic'"),
        ({"weight": 1.0}, "t.weight"),
        ({"method": "stolen_encoder", "weight": 0.0}, "t.weight"),
        ({"training": {**BLOCK["training"], "flip": True}}, "t.training: flip, shift, mix"),
        ({"images": "mine"}, r"t\.images: wants queries, or a block with a source"),
    ],
)
def test_blocks_that_are_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        thief_params({**BLOCK, **change}, "t")


def test_the_query_split_goes_by_its_name() -> None:
    assert thief_params({**BLOCK, "images": "queries"}, "t")[1].images is None


def test_every_thief_has_its_own_block() -> None:
    assert registry.names() == ["regression", "stolen_encoder"]
