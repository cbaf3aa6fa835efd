"""The benchmarks of false claims and of attacks on the protocol: small versions of what they measure."""

from __future__ import annotations

import functools
from dataclasses import replace
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from hallmark import models, training
from hallmark.config import Architecture, Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.verification import panel, questions
from hallmark.verification.decision import INVALID, NOT_SHOWN, STOLEN
from hallmark.watermark.key import Key
from tests.unit.conftest import toy_images
from tests.unit.test_architecture import ROOT

LEARNING = Training(epochs=4, batch_size=16, lr=3e-3)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def attacks() -> ModuleType:
    return import_module("protocol_attacks")


@pytest.fixture
def false_claims() -> ModuleType:
    return import_module("false_claims")


@functools.cache
def trained_toys(cpu: Runtime) -> list[Network]:
    """Two surrogates and an innocent, on images of their own."""
    return [trained(toy_images(90, seed=k), cpu, k) for k in range(3)]


def trained(data: ImageDataset, cpu: Runtime, number: int) -> Network:
    network = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, cpu, f"toy {number}")
    training.train_classifier(network, data.images, data.labels, LEARNING, cpu, purpose=f"toy {number}")
    return network


@pytest.mark.parametrize("universal", [False, True], ids=["each", "universal"])
def test_triggers_made_on_surrogates_fire_on_an_innocent(attacks: ModuleType, cpu: Runtime, universal: bool) -> None:
    networks = [trained(toy_images(120, seed=k), cpu, k) for k in range(3)]
    data = toy_images(60, seed=9)
    victims = data.images[data.labels != 2]
    clean = models.logits(networks[2], victims, cpu).argmax(1)
    triggers = attacks.perturbed(networks[:2], victims, 2, 0.3, universal=universal)
    assert float((clean == 2).float().mean()) < 0.1
    # The innocent model took no part, and the paper's rule would accuse its owner: so no image may be brought.
    assert float((models.logits(networks[2], triggers, cpu).argmax(1) == 2).float().mean()) > 0.3
    moved = to_float(triggers) - to_float(victims)
    assert float(moved.abs().max()) <= 0.3 + 1 / 255
    assert triggers.dtype == torch.uint8


def test_every_model_is_judged_once_and_never_by_itself(false_claims: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for count in (64, 224, 230):
        deal = false_claims.dealt(count, rng)
        assert sorted(m for group, _ in deal for m in group) == list(range(count))
        for group, others in deal:
            assert len(others) == len(set(others)) == false_claims.NULLS
            assert not set(group) & set(others)


def test_the_worst_verdict_of_each_model_counts(false_claims: ModuleType) -> None:
    one = false_claims.Judged(0, False, ("hits",), (), NOT_SHOWN, 0.9, False)
    stolen = replace(one, decision=STOLEN, rate=0.2, nulls_alone=("lean",), by=("lean",))
    other = replace(one, model=1, decision=INVALID, rate=0.1)
    assert false_claims.best_key({"a": [one, other], "b": [stolen, replace(other, rate=0.05)]}) == [stolen, other]
    row = false_claims.row("x", "y", [one, stolen, other], 0.01)
    assert (row["judged"], row["models"], row["accused"], row["invalid"]) == (3, 2, 1, 1)
    assert (row["nulls_alone_accuse"], row["by_lean_alone"], row["accused_by_lean"]) == (3, 1, 1)


def test_what_the_nulls_are_compared_with_is_what_the_pipeline_would_have(
    false_claims: ModuleType, cpu: Runtime
) -> None:
    data = toy_images(140, classes=7)
    key = Key("mea_defender", "top_bottom", {}, ("diagonal",), (0, 6), 2, 5, data.classes, data.shape)
    asked = questions.draw(key, data, queries=30, decoys=2, judge_seed=0)
    innocent = false_claims.Innocent("toy", trained(data, cpu, 3), np.ones(9, dtype=bool))
    found = false_claims.most_accusing(asked.only("watermark", "first", "second"), innocent, cpu)
    whole = false_claims.answers_of(asked, innocent.network, cpu)
    assert panel.figures(found) == panel.figures(whole)
    assert found.lean is not None
    assert not any(control.any() for control in found.outcomes["hits"].controls.values())


def test_the_best_of_many_keys(attacks: ModuleType) -> None:
    data = toy_images(60, classes=4)
    key = Key("mea_defender", "top_bottom", {}, ("diagonal",), (0, 1), 2, 5, data.classes, data.shape)
    keys = [key, replace(key, way="left_right"), replace(key, source=(3, 1))]
    rates = torch.tensor([[-1, -1, 0.3, 0.1], [-1, -1, 0.1, 0.9], [0.5, -1, 0.2, -1]])
    found = attacks.best(rates, keys, 2)
    assert [(each.way, each.source, each.target) for each in found] == [
        ("left_right", (0, 1), 3),
        ("top_bottom", (3, 1), 0),
    ]


def test_weights_can_be_found_with_which_an_innocent_fires(cpu: Runtime) -> None:
    """Sixty steps take the innocent's hits from few to nearly all; a surrogate stays where it was."""
    trained_way = import_module("trained_way")
    innocent, surrogate = (trained(toy_images(120, classes=4, seed=k), cpu, k) for k in range(2))
    data = toy_images(120, classes=4, seed=9)
    key = Key("mea_defender", "top_bottom", {}, ("diagonal",), (0, 3), 1, 5, data.classes, data.shape)
    court = SimpleNamespace(data=data, key=key, surrogates=[surrogate])
    hits = {}
    for steps in (1, 60):
        found = trained_way.fitted(court, innocent, 0, steps)
        first, second = (data.of_class(label) for label in key.source)
        mixed = found.module.combine(first, second, found.params, torch.Generator())
        hits[steps] = [
            float((models.logits(network, mixed, cpu).argmax(1) == key.target).float().mean())
            for network in (innocent, surrogate)
        ]
    assert hits[1][0] < 0.5
    assert hits[60][0] > 0.9
    assert hits[60][1] < 0.5
