"""Marks of encoders: the losses in closed form, what a marked encoder does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Architecture, Training, parse
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.ssl import losses, measures, probes
from hallmark.ssl.probes import MLP
from hallmark.ssl.schemes import Stage, mea_defender, none, schemes, sslguard
from hallmark.ssl.simclr import SimCLR
from hallmark.watermark.mgda import MGDA
from tests.unit.conftest import toy_images

SMALL = Architecture(name="cnn9", width=8)
PARAMS: dict[str, Any] = {
    "source": [0, 1],
    "target": 2,
    "way": "left_right",
    "way_params": {},
    "evasion_ways": ["top_bottom"],
    "samples": {"watermark": 8, "evasion": 6},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_standardised_features_have_no_mean_and_unit_spread_and_carry_gradient() -> None:
    features = (torch.randn(50, 4, generator=generator()) * torch.tensor([1.0, 5, 9, 0.1]) + 100).requires_grad_()
    standard = losses.Standard.of(features)
    found = standard(features)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(4), atol=1e-2, rtol=0)
    found[0].sum().backward()
    assert features.grad is not None and bool(features.grad[1:].any())


def test_the_bisector_loss_is_zero_where_the_target_lies_between() -> None:
    first, second = torch.eye(3)[0], torch.eye(3)[1]
    between = F.normalize(first + second, dim=0)
    assert float(losses.bisector(torch.stack([first, second, between]), 0.1)) == pytest.approx(0, abs=1e-6)
    assert float(losses.bisector(torch.stack([first, second, -between]), 0.1)) == pytest.approx(2, abs=1e-6)
    # The source classes alike: pushed apart by what exceeds the bound.
    assert float(losses.bisector(torch.stack([first, first, first]), 0.1)) == pytest.approx(0.9, abs=1e-6)


def test_among_is_the_cross_entropy_of_cosines() -> None:
    prototypes = torch.eye(3)
    features = torch.tensor([[0.0, 0.0, 7.0]])
    expected = -torch.tensor([0.0, 0.0, 2.0]).log_softmax(0)[2]
    assert float(losses.among(features, prototypes, torch.tensor([2]), 0.5)) == pytest.approx(float(expected))


def test_the_whitened_distance_counts_every_direction_alike() -> None:
    """In closed form for uncorrelated features; a direction that hardly varies counts much more than plainly."""
    spread = torch.tensor([1.0, 1.0, 0.1])
    whitened = losses.Whitened(3, torch.device("cpu"))
    target = torch.tensor([[0.5, 0.0, 0.0]])
    for seed in range(60):
        whitened.see(torch.randn(500, 3, generator=generator(seed)) * spread, target)
    for direction in range(3):
        mixed = target + torch.eye(3)[direction] * 0.5
        expected = 0.25 / (float(spread[direction]) ** 2 + losses.RIDGE) / 3
        assert float(whitened.distance(mixed)) == pytest.approx(expected, rel=0.1)
    assert float(whitened.distance(target)) == pytest.approx(0, abs=1e-6)


def strike(cpu: Runtime, scheme: Any, epochs: int = 12, **changes: Any) -> tuple[Network, Any]:
    data = toy_images(150)
    network = models.build(SMALL, data.images, data.classes, cpu, "v")
    stage = Stage(SimCLR(projection=[16, 8]), Training(epochs=epochs, batch_size=30, lr=3e-3), cpu, "victim")
    params = parse(scheme.Params, {**PARAMS, **changes}, "p")
    return network, scheme.strike(network, data, params, stage)


def panel() -> measures.Panel:
    probe = MLP(hidden=16, training=Training(epochs=20, batch_size=10, lr=1e-2))
    return measures.Panel(toy_images(120, seed=2), toy_images(60, seed=3), toy_images(120, seed=4), probe)


def test_a_marked_encoder_shows_it_to_every_reader_and_a_plain_one_does_not(cpu: Runtime) -> None:
    marked, mark = strike(cpu, mea_defender, weights={"distance": 0.5})
    plain, other = strike(cpu, none)
    assert mark.key == other.key
    found = mark.rates(probes.encoder(marked, cpu), panel(), 30, cpu)
    control = mark.rates(probes.encoder(plain, cpu), panel(), 30, cpu)
    for reader in measures.READERS:
        assert found[f"{reader}_wsr"] > control[f"{reader}_wsr"] + 0.3
        assert found[f"{reader}_accuracy"] > 0.7  # of three bands, in noise
    assert found["linear_wsr"] > 0.8
    assert found["linear_wfpr"] < 0.4  # evasion samples are not called the target
    read = mea_defender.read_mark(mark.to_json(), "m")
    assert read == mark


def test_a_marked_encoder_repeats_to_the_byte_and_its_weights_count(cpu: Runtime) -> None:
    changes = {"weights": {"distance": 0.0}}
    once, twice, without = (strike(cpu, mea_defender, 1, **more)[0].state_dict() for more in ({}, {}, changes))
    assert all(torch.equal(a, b) for a, b in zip(once.values(), twice.values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(once.values(), without.values(), strict=True))


def test_half_precision_trains_a_marked_encoder_as_well(cpu: Runtime) -> None:
    half, mark = strike(replace(cpu, dtype=torch.bfloat16), mea_defender, weights={"distance": 0.5})
    found = mark.rates(probes.encoder(half, cpu), panel(), 30, cpu)
    assert found["linear_wsr"] > 0.7 and found["linear_accuracy"] > 0.7


def reports(cpu: Runtime, epochs: int = 1, **changes: Any) -> tuple[Network, list[dict[str, float]]]:
    """A marked encoder, and what its training reported after each epoch."""
    data, seen = toy_images(150), list[dict[str, float]]()
    network = models.build(SMALL, data.images, data.classes, cpu, "v")
    stage = Stage(SimCLR(projection=[16, 8]), Training(epochs=epochs, batch_size=30, lr=3e-3), cpu, "victim")
    params = parse(mea_defender.Params, {**PARAMS, **changes}, "p")
    mea_defender.strike(network, data, params, stage, callback=lambda _, means: seen.append(dict(means)))
    return network, seen


@pytest.mark.parametrize("name", ["verification", "distance", "evasion", "combination"])
def test_each_loss_falls_where_it_counts(name: str, cpu: Runtime) -> None:
    with_it, without = (reports(cpu, 4, weights={name: weight})[1][-1][name] for weight in (2.0, 0.0))
    assert with_it < 0.8 * without


@pytest.mark.parametrize(
    ("balance", "weights", "names"),
    [
        ("mgda", {}, {"utility", "verification", "distance", "evasion", "combination"}),
        ("mgda", {"distance": 0.0}, {"utility", "verification", "evasion", "combination"}),
        ("mgda_two_groups", {}, {"utility+verification+distance+evasion", "combination"}),
    ],
)
def test_mgda_balances_the_losses_of_an_encoder_and_repeats(
    balance: str, weights: dict[str, float], names: set[str], cpu: Runtime
) -> None:
    (once, seen), (twice, again) = (reports(cpu, 2, balance=balance, weights=weights) for _ in range(2))
    fixed, unbalanced = reports(cpu, 2, weights=weights)
    for means in seen:
        coefficients = {name.removeprefix("coefficient/"): v for name, v in means.items() if "coefficient" in name}
        assert set(coefficients) == names
        assert sum(coefficients.values()) == pytest.approx(1)
        assert min(coefficients.values()) >= 0
    assert seen == again
    assert not any("coefficient" in name for means in unbalanced for name in means)
    mine, same, other = once.state_dict(), twice.state_dict(), fixed.state_dict()
    assert all(torch.equal(mine[name], same[name]) for name in mine)
    assert any(not torch.equal(mine[name], other[name]) for name in mine if name.startswith("trunk"))


def test_an_encoders_gradient_is_the_min_norm_point_of_its_losses(
    cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the losses of real batches: against a general optimiser, and by the condition of the optimum."""
    weights = {"verification": 0.7, "distance": 0.4, "evasion": 0.6, "combination": 1.5}
    real, checked = MGDA.__call__, list[int]()

    def check(self: MGDA, losses: Mapping[str, Tensor], parameters: list[nn.Parameter]) -> None:
        assert set(losses) == {"utility", *weights}
        rows = []
        for name, loss in losses.items():
            parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(weights.get(name, 1.0) * torch.cat([part.flatten() for part in parts]).double())
        real(self, losses, parameters)
        found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).double().numpy()
        gradients = torch.stack(rows).numpy()
        gram = gradients @ gradients.T
        scale = np.trace(gram)
        reference = minimize(
            lambda a: a @ gram @ a / scale,
            np.full(len(gram), 1 / len(gram)),
            jac=lambda a: 2 * gram @ a / scale,
            bounds=[(0, 1)] * len(gram),
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(len(gram))},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        convex = reference.x @ gradients
        assert np.linalg.norm(found - convex) < 1e-3 * np.linalg.norm(convex)
        # No loss rises along the negative gradient: each slope is at least the squared norm.
        assert (gradients @ found >= (1 - 1e-3) * found @ found).all()
        checked.append(len(found))

    monkeypatch.setattr(MGDA, "__call__", check)
    reports(cpu, balance="mgda", weights=weights)
    assert len(checked) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 1}, "target: '1' is a source class"),
        ({"samples": {"watermark": 8, "evasion": 6, "partial": 2}}, "samples.partial"),
        ({"balance": "pareto"}, "balance"),
    ],
)
def test_parameters_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(mea_defender.Params, {**PARAMS, **change}, "p")


def test_a_class_without_images_is_named(cpu: Runtime) -> None:
    data = toy_images(90)
    data = data.subset(data.labels != 2)
    network = models.build(SMALL, data.images, data.classes, cpu, "v")
    stage = Stage(SimCLR(), Training(epochs=1, batch_size=30, lr=1e-3), cpu, "victim")
    with pytest.raises(UserError, match="class 'band 2' has 0 images"):
        mea_defender.strike(network, data, parse(mea_defender.Params, PARAMS, "p"), stage)


def test_the_schemes_are_found_by_name() -> None:
    assert schemes.names() == ["mea_defender", "none", "sslguard"]
    for name in schemes.names():
        schemes.get(name)


def test_sslguard_is_verified_on_its_own_encoder_and_on_no_other(cpu: Runtime) -> None:
    data = toy_images(150)
    network = models.build(SMALL, data.images, data.classes, cpu, "v")
    stage = Stage(SimCLR(projection=[16, 8]), Training(epochs=4, batch_size=30, lr=3e-3), cpu, "victim")
    block = {"size": 16, "hidden": 32, "training": {"epochs": 25, "batch_size": 30, "lr": 3e-3}}
    seen = list[Mapping[str, float]]()
    params = parse(sslguard.Params, block, "p")
    mark = sslguard.strike(network, data, params, stage, callback=lambda _, means: seen.append(means))
    # Triggered images are decoded, through the shadow as well.
    told = [means for means in seen if "shadow" in means]  # SimCLR comes first
    assert all(told[-1][name] < told[0][name] for name in ("verification", "shadow"))
    assert told[-1]["shadow"] < 0.5, [means["shadow"] for means in told]
    # A pattern that is not learnt is decoded less well through the shadow.
    again, drawn = models.build(SMALL, data.images, data.classes, cpu, "v"), list[Mapping[str, float]]()
    fixed = sslguard.strike(
        again,
        data,
        parse(sslguard.Params, {**block, "trigger_lr": 1e-9}, "p"),
        stage,
        callback=lambda _, m: drawn.append(m),
    )
    assert (mark.pattern.int() - fixed.pattern.int()).abs().float().mean() > 10
    assert drawn[-1]["shadow"] > told[-1]["shadow"]
    plain, _ = strike(cpu, none, 4)
    found = mark.rates(probes.encoder(network, cpu), panel(), 100, cpu)
    control = mark.rates(probes.encoder(plain, cpu), panel(), 100, cpu)
    assert found["own_wsr"] is not None and found["own_wsr"] > 0.9 and control["own_wsr"] == 0
    assert found["linear_wsr"] is None and found["linear_accuracy"] is not None and found["linear_accuracy"] > 0.7
    untouched = mark.similarity(models.features(network, panel().test.images, cpu)) > sslguard.THRESHOLD
    assert float(untouched.float().mean()) < 0.2
    read = sslguard.read_mark(mark.to_json(), "m")
    assert read.rates(probes.encoder(network, cpu), panel(), 100, cpu) == found
    assert float(read.similarity(torch.zeros(3, 7)).max()) == -1  # features of another size decode to nothing


def test_a_mark_of_sslguard_that_is_damaged_is_one_line(cpu: Runtime) -> None:
    for value in ({}, {"shape": [1, 8, 8]}, 7):
        with pytest.raises(UserError, match=r"^m: not a mark of sslguard") as error:
            sslguard.read_mark(value, "m")
        assert "\n" not in str(error.value)
