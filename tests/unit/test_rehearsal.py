"""The rehearsed theft: influence against automatic differentiation, the loss against its closed form, the training."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from hallmark import models
from hallmark.config import Architecture, LossWeights, Rehearsal, Training, WatermarkSamples
from hallmark.models import Network
from hallmark.watermark import mea_defender, rehearsal
from hallmark.watermark.key import make_key
from tests.unit.test_watermark import CLASSES, settings, start, toy

SMALL = Architecture(name="cnn9", width=8)


def make_thief(**changes: object) -> tuple[rehearsal.Thief, list[int]]:
    started, data, built = start(), toy(), []

    def build(number: int) -> Network:
        built.append(number)
        return models.build(SMALL, data.images, CLASSES, started, f"thief {number}")

    return rehearsal.Thief(build, Rehearsal(architecture=SMALL, **changes)), built  # type: ignore[arg-type]


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_influence_is_the_inner_product_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "STEP", 1e-3)  # small enough for a derivative
    thief, _ = make_thief(specificity=0.7)
    plain, mixed, evasion = images(5, 0), images(4, 1), images(3, 2)
    for seed in range(20):
        thief.learn(images(5, seed), F.one_hot(torch.arange(5) % 4, 4).float())
    found = thief.influence(plain, mixed, evasion, 2)
    logits = thief._network(torch.cat([mixed, evasion]))
    wish = F.cross_entropy(logits[:4], torch.full((4,), 2)) - 0.7 * (1 - logits[4:].softmax(1)[:, 2]).log().mean()
    assert thief.wish(mixed, evasion, 2).item() == pytest.approx(wish.item())
    slope = torch.autograd.grad(wish, thief._parameters)
    scores = thief._network(plain).log_softmax(1)
    expected = torch.zeros(5, 4)
    for i in range(5):
        for k in range(4):
            own = torch.autograd.grad(scores[i, k], thief._parameters, retain_graph=True)
            expected[i, k] = -sum((a * b).sum() for a, b in zip(slope, own, strict=True))
    assert expected.abs().min() < expected.abs().max() / 10  # it matters which image and class
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def test_influence_leaves_the_thief_as_he_was() -> None:
    thief, _ = make_thief()
    before = [parameter.detach().clone() for parameter in thief._parameters]
    thief.influence(images(5, 0), images(4, 1), images(3, 2), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, thief._parameters, strict=True))


def test_a_thief_learns_and_another_begins_after_his_lifetime() -> None:
    thief, built = make_thief(lifetime=30)
    plain, answers = images(12, 0), F.one_hot(torch.arange(12) % 4, 4).float()

    def distance() -> float:
        return F.cross_entropy(thief._network(plain), answers).item()

    fresh = distance()
    for _ in range(30):
        thief.learn(plain, answers)
    assert distance() < fresh / 2
    assert built == [0]
    thief.learn(plain, answers)
    assert built == [0, 1]
    assert distance() > fresh / 2


def test_the_loss_moves_the_target_where_it_teaches_the_mark() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    influence = torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    loss = rehearsal.rehearsal_loss(logits, influence, 2)
    # In units of the mean |a|, 0.5: a = 6 and 2; minus their means over the answers, 1.5 and 0.5.
    assert loss.item() == pytest.approx(-((6 - 1.5) * 0.25 + (0 - 0.5) * 0.25) / 2)
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope[0, 2] < 0 < slope[1, 2]


def test_the_bounded_price_of_calling_mixed_images_the_target() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 100.0, 0.0]])
    expected = (-torch.log(torch.tensor(0.75)) - torch.log(torch.tensor(1e-4))) / 2
    assert float(rehearsal.not_target(logits, 2)) == pytest.approx(float(expected))


def test_training_with_a_rehearsal_repeats_and_differs_from_one_without() -> None:
    started, data, found = start(), toy(per_class=40), []
    for weight in (0.0, 0.5, 0.5):
        chosen = settings(
            training=Training(epochs=2, batch_size=20, lr=2e-3),
            weights=LossWeights(combination=0.05, verification=0.5, evasion=0.5, rehearsal=weight),
            rehearsal=Rehearsal(architecture=SMALL, lifetime=5),
        )
        seen: list[dict] = []
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train(
            network,
            data,
            make_key(chosen, data, started),
            chosen,
            started,
            purpose="victim",
            callback=lambda _, m, seen=seen: seen.append(dict(m)),
        )
        found.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
        assert ("rehearsal" in seen[0]) == bool(weight)
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"partial": 0.3}}, r"samples\.partial: goes with weights\.partial"),
        ({"samples": {"partial": 3}}, r"samples\.partial: goes with weights\.partial"),
        ({"weights": {"rehearsal": 0.3}, "balance": "mgda"}, r"balance: mgda knows the paper's four losses"),
        (
            {"weights": {"partial": 0.3}, "samples": {"partial": 3}, "balance": "mgda_two_groups"},
            r"balance: mgda_two_groups knows the paper's four losses",
        ),
        ({"weights": {"combination": 0.0}, "balance": "mgda_released"}, "balance: mgda_released balances the combi"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict, message: str) -> None:
    weights = LossWeights(**{"combination": 0.05, "verification": 0.5, "evasion": 0.5, **changes.get("weights", {})})
    sizes = WatermarkSamples(watermark=4, evasion=5, **changes.get("samples", {}))
    balance = changes.get("balance", "fixed")
    with pytest.raises(ValidationError, match=message):
        settings(weights=weights, samples=sizes, balance=balance, rehearsal=Rehearsal(architecture=SMALL))


def test_a_thief_has_no_dropout() -> None:
    with pytest.raises(ValidationError, match="its noise would drown what is compared"):
        Rehearsal(architecture=Architecture(name="cnn9", width=8, dropout=0.3))


def test_a_weight_without_a_thief_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"rehearsal: missing, and weights\.rehearsal is not 0"):
        settings(weights=LossWeights(combination=0.05, verification=0.5, evasion=0.5, rehearsal=0.1))
