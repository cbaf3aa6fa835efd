"""Data-free extraction: estimated gradients, recovered logits, budget, what the thief does not see."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import models
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Oracle, Thief, attack_params
from hallmark.extraction.attacks import dfme
from hallmark.runtime import Runtime

BLOCK: dict[str, Any] = {
    "method": "dfme",
    "budget": 2100,
    "architecture": {"name": "cnn9", "width": 4},
    "training": {"epochs": 4, "batch_size": 25, "lr": 0.003},
    "latent": 16,
    "width": 8,
}
ROUND = 25 * (1 * 2 + 5)


def sides(images: Tensor) -> Tensor:
    """A victim that says which half of an image is the brighter one."""
    return (10 * torch.stack([images[..., :4].mean((1, 2, 3)), images[..., 4:].mean((1, 2, 3))], 1)).softmax(1)


def halves(count: int = 80) -> ImageDataset:
    labels = torch.arange(count) % 2
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images[labels == 0, :, :, :4] += 100
    images[labels == 1, :, :, 4:] += 100
    return ImageDataset(images.byte(), labels, torch.arange(count), ("left", "right"))


def thief(cpu: Runtime) -> Thief:
    return Thief(halves(), cpu, "extract/x", where="p: extract_attack.attacks.x")


def steal(cpu: Runtime, query: Any = sides, thieves: Thief | None = None, **changes: Any) -> tuple[Any, Oracle]:
    module, params = attack_params({**BLOCK, **changes}, "p")
    oracle = params.oracle(query, ("left", "right"), "p")
    return module.steal(oracle, thieves or thief(cpu), params), oracle


# --- the estimate ---


def test_forward_differences_agree_with_the_true_gradient_of_a_toy_victim() -> None:
    draw = torch.Generator().manual_seed(4)
    victim, copy = (torch.randn(3, 16, generator=draw) for _ in range(2))

    def losses(points: Tensor) -> Tensor:
        x = points.flatten(1).sigmoid()
        return dfme.distance((x @ victim.T.to(x.dtype)).softmax(1), x @ copy.T.to(x.dtype))

    points = torch.randn(3, 1, 4, 4, generator=draw, dtype=torch.float64)
    found = dfme.estimated_gradient(losses, points, 1e-4, 20_000, torch.Generator().manual_seed(0))
    points.requires_grad_()
    (true,) = torch.autograd.grad(losses(points).sum(), points)
    assert F.cosine_similarity(found.flatten(1), true.flatten(1)).min() > 0.99
    assert torch.allclose(found.flatten(1).norm(dim=1), true.flatten(1).norm(dim=1), rtol=0.03)


def test_a_linear_loss_gives_d_times_the_projection_on_each_direction() -> None:
    slope = torch.arange(1.0, 9.0).view(2, 2, 2)
    points, asked = torch.zeros(5, 2, 2, 2), []

    def losses(x: Tensor) -> Tensor:
        asked.append(len(x))
        return (x * slope).flatten(1).sum(1)

    found = dfme.estimated_gradient(losses, points, 0.5, 1, torch.Generator().manual_seed(1))
    assert asked == [10]
    # d (w.u) u for some unit vector u: its projection on w is d (w.u)^2, its length d |w.u|.
    along = (found * slope).flatten(1).sum(1)
    lengths = found.flatten(1).norm(dim=1)
    assert torch.allclose(along, lengths**2 / 8, rtol=1e-4)
    assert len(lengths.unique()) == 5


def test_logits_are_recovered_up_to_their_mean() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 4.0, -3.0]])
    centred = logits - logits.mean(1, keepdim=True)
    assert torch.allclose(dfme.distance(logits.softmax(1), centred), torch.zeros(2), atol=1e-6)
    off = centred + torch.tensor([[0.3, 0.0, -0.6], [0.0, 0.0, 0.9]])
    assert dfme.distance(logits.softmax(1), off).tolist() == pytest.approx([0.3, 0.3], abs=1e-5)
    assert torch.isfinite(dfme.distance(torch.tensor([[1.0, 0.0, 0.0]]), logits[:1])).all()


def test_without_probabilities_unlikely_labels_and_many_classes_are_sought() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    answers = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    p = math.exp(2) / (1 + math.exp(2))
    cross_entropy = -math.log(p) - math.log(1 - p)  # the sum of the two images'
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert float(dfme.unlikely(answers, logits, 0.0)) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(dfme.unlikely(answers, logits, 3.0)) == pytest.approx(cross_entropy + 6 * entropy, rel=1e-5)
    # An image that the victim calls nothing counts for nothing.
    unanswered = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert float(dfme.unlikely(unanswered, logits, 0.0)) == pytest.approx(-math.log(1 - p), rel=1e-5)
    certain = torch.tensor([[200.0, 0.0], [200.0, 0.0]])
    assert float(dfme.unlikely(answers[:1].repeat(2, 1), certain, 1.0)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14)])
def test_generators_make_images_of_any_size(shape: tuple[int, int, int]) -> None:
    made = dfme.Generator(shape, 6, 4)(torch.randn(5, 6))
    assert made.shape == (5, *shape)
    assert abs(float(made.detach().mean())) < 0.3


# --- the attack ---


def test_the_copy_of_a_simple_victim_is_good_and_repeats_within_the_budget(cpu: Runtime) -> None:
    rows: list[tuple[int, float]] = []
    shapes: list[Tensor] = []

    def query(images: Tensor) -> Tensor:
        shapes.append(images)
        return sides(images)

    robber = replace(thief(cpu), callback=lambda epoch, metrics: rows.append((epoch, metrics["distillation"])))
    copy, oracle = steal(cpu, query, robber)
    assert oracle.used == 2100 // ROUND * ROUND <= 2100
    asked = torch.cat(shapes)
    assert len(asked) == oracle.used
    assert asked.dtype == torch.float32
    assert 0 <= float(asked.min()) < 0.2
    assert 0.8 < float(asked.max()) <= 1
    assert [epoch for epoch, _ in rows] == [1, 2, 3, 4]
    assert rows[-1][1] < rows[0][1]
    data = halves()
    first = models.logits(copy, data.images, cpu)
    assert float((first.argmax(1) == data.labels).float().mean()) > 0.9
    assert not copy.training
    # The same without the true images: brightness, too, is none of this thief's knowledge.
    blind = ImageDataset(torch.full_like(data.images, 7), data.labels * 0, data.ids, data.classes)
    again, _ = steal(cpu, sides, replace(thief(cpu), data=blind))
    assert torch.equal(models.logits(again, data.images, cpu), first)


def test_labels_alone_are_enough_for_a_simple_victim_and_cost_one_batch_a_step(cpu: Runtime) -> None:
    asked = list[int]()

    def query(images: Tensor) -> Tensor:
        asked.append(len(images))
        return sides(images)

    copy, oracle = steal(cpu, query, answers="labels")
    assert set(asked) == {25}
    assert oracle.used == 2100  # 14 rounds of one batch for the generator and five for the copy
    data = halves()
    first = models.logits(copy, data.images, cpu)
    assert float((first.argmax(1) == data.labels).float().mean()) > 0.9
    again, _ = steal(cpu, answers="labels")
    assert torch.equal(models.logits(again, data.images, cpu), first)
    # A victim that rounds the images needs no longer step: none is taken.
    module, params = attack_params({**BLOCK, "answers": "labels", "budget": 150}, "p")
    module.steal(params.oracle(sides, ("left", "right"), "p", rounds=True), thief(cpu), params)


def test_with_labels_the_gradient_is_the_copys_and_the_copy_stays_as_it_is(cpu: Runtime) -> None:
    params = dfme.Params.model_validate({**BLOCK, "answers": "labels", "diversity": 0.5})
    data, robber = halves(), thief(cpu)
    copy = models.build(params.architecture, data.images, data.classes, cpu, "copy").train()
    made = torch.randn(25, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    search = dfme.Search(params.oracle(sides, data.classes, "p"), copy, robber, params)
    found = search.gradient(made.clone())
    assert copy.training
    assert all(parameter.grad is None for parameter in copy.parameters())
    labels = F.one_hot(sides(made.sigmoid()).argmax(1), 2).float()
    copy.double().eval()

    def value(points: Tensor) -> float:
        return float(dfme.unlikely(labels.double(), copy(points.double().sigmoid()), 0.5).detach())

    for seed in range(3):
        along = torch.randn(made.shape, generator=torch.Generator().manual_seed(seed))
        rise = (value(made + 1e-4 * along) - value(made - 1e-4 * along)) / 2e-4
        assert float((found * along).sum()) == pytest.approx(rise, rel=1e-2, abs=1e-3)


def test_with_labels_the_generator_climbs(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A victim of one label and a copy that stays as it is: the images come to be what it does not call so."""
    sought, unlikely = list[float](), dfme.unlikely

    def seen(answers: Tensor, logits: Tensor, diversity: float) -> Tensor:
        found = unlikely(answers, logits, diversity)
        sought.append(float(found.detach()))
        return found

    monkeypatch.setattr(dfme, "unlikely", seen)
    changes = {"answers": "labels", "budget": 30 * 150, "training": {**BLOCK["training"], "lr": 1e-9}}
    steal(
        cpu,
        lambda images: torch.tensor([[0.9, 0.1]]).expand(len(images), 2),
        generator_lr=0.02,
        diversity=0.0,
        **changes,
    )
    assert len(sought) == 30
    assert sum(sought[-5:]) / 5 > sum(sought[:5]) / 5 + 0.1


def test_a_run_of_fewer_rounds_than_epochs_still_reports(cpu: Runtime) -> None:
    epochs: list[int] = []
    robber = replace(thief(cpu), callback=lambda epoch, metrics: epochs.append(epoch))
    steal(cpu, thieves=robber, budget=2 * ROUND + 3)
    assert epochs == [2, 4]


def test_victims_that_take_8_bit_images_need_a_longer_step(cpu: Runtime) -> None:
    module, params = attack_params(BLOCK, "p")
    oracle = params.oracle(sides, ("left", "right"), "p", rounds=True)
    with pytest.raises(UserError, match=r"attacks\.x\.step: 0\.001 is lost on a victim .* set it to 0\.8$"):
        module.steal(oracle, thief(cpu), params)
    assert oracle.used == 0
    copy, _ = steal(cpu, lambda images: sides(images.mul(255).round() / 255), step=0.8)
    data = halves()
    assert float((models.logits(copy, data.images, cpu).argmax(1) == data.labels).float().mean()) > 0.9


def test_answers_that_hide_the_step_stop_the_attack_in_its_first_round(cpu: Runtime) -> None:
    rounded = {"form": "rounded", "digits": 1}
    asked: list[int] = []

    def query(images: Tensor) -> Tensor:
        asked.append(len(images))
        return sides(images)

    with pytest.raises(UserError, match=r"attacks\.x\.step: most answers stay the same along a step of 0\.001"):
        steal(cpu, query, answers=rounded)
    assert asked == [50]
    steal(cpu, query, answers=rounded, step=8.0, budget=ROUND)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": "labels", "step": 0.1}, "step: says nothing with answers: labels"),
        ({"answers": "labels", "directions": 2}, "directions: says nothing with answers: labels"),
        ({"diversity": 2}, "diversity: says nothing with answers: soft"),
        ({"answers": "labels", "budget": 149}, "budget: 149 does not pay a round of 150"),
        ({"images": {"source": "digits"}}, "images: this thief has none"),
        ({"budget": ROUND - 1}, f"budget: {ROUND - 1} does not pay a round of {ROUND}"),
        ({"training": {**BLOCK["training"], "flip": True}}, "take out flip and shift"),
        ({"directions": 0}, r"p\.directions"),
    ],
)
def test_bad_blocks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        attack_params({**BLOCK, **changes}, "p")
