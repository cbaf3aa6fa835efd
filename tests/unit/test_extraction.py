"""Extraction: budgets, distillation, Jacobian augmentation, the adaptive policy, the stages' parameters."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hallmark import config, innocents, models, runtime
from hallmark.config import Architecture, RuntimeConfig
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.extraction import Oracle, Thief, agreement, attack_params, black_box, registry
from hallmark.extraction.attacks import jacobian, knockoff
from hallmark.extraction.thief import distillation_loss

BASE: dict[str, Any] = {
    "budget": 60,
    "architecture": {"name": "cnn9", "width": 4},
    "training": {"epochs": 3, "batch_size": 20, "lr": 0.003},
}
OWN: dict[str, dict[str, Any]] = {
    "distillation": {"temperature": 2.0},
    "jacobian": {"seeds": 20, "rounds": 2, "step": 0.1, "round_epochs": 1},
    "knockoff": {"policy": "adaptive", "rewards": ["certainty", "diversity", "loss"], "step": 15},
}


def start() -> runtime.Runtime:
    return runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=3))


def toy(count: int = 80) -> ImageDataset:
    """Four classes of different brightness."""
    labels = torch.arange(count) % 4
    noise = torch.randint(0, 30, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return ImageDataset((labels[:, None, None, None] * 60 + noise).byte(), labels, torch.arange(count), tuple("abcd"))


def thief(where: str = "p: extract_attack.attacks.x") -> Thief:
    return Thief(toy(), start(), "extract/x", where=where)


def by_brightness(images: Tensor) -> Tensor:
    """A victim that knows the toy's truth and hedges a little."""
    centre = torch.arange(4) * 60 / 255 + 15 / 255
    return (-((images.mean((1, 2, 3))[:, None] - centre) ** 2) * 100).softmax(1)


# --- the black box ---


def test_oracle_counts_and_refuses_beyond_the_budget() -> None:
    seen: list[Tensor] = []

    def query(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.full((len(images), 2), 0.5)

    oracle = Oracle(query, 5)
    oracle(torch.full((3, 1, 8, 8), 51, dtype=torch.uint8))
    assert (oracle.used, oracle.left) == (3, 2)
    assert seen[0].dtype == torch.float32
    assert seen[0].unique().item() == pytest.approx(0.2)
    with pytest.raises(UserError, match="3 images asked, 2 of 5 left"):
        oracle(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert (oracle.used, len(seen)) == (3, 1)


def test_black_box_answers_with_probabilities() -> None:
    data, started = toy(), start()
    network = models.build(Architecture(name="cnn9", width=4), data.images, data.classes, started, "v")
    answers = black_box(network, started)(data.images[:7].float() / 255)
    assert answers.shape == (7, 4)
    assert torch.allclose(answers.sum(1), torch.ones(7))
    assert torch.allclose(answers, models.probabilities(network, data.images[:7], started), atol=1e-6)
    labels = models.logits(network, data.images, started).argmax(1)
    assert agreement(network, labels, data.images, started) == 1
    labels[:20] = (labels[:20] + 1) % 4
    labels[20:40] = -1
    assert agreement(network, labels, data.images, started) == 0.5


# --- parameters ---


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("distillation", {"budget": 81}, r"attacks\.x\.budget: 81 exceeds the query set of 80"),
        ("knockoff", {"budget": 81}, r"attacks\.x\.budget: 81 exceeds the query set of 80"),
        ("jacobian", {"budget": 90, "seeds": 81}, r"attacks\.x\.seeds: 81 exceeds the query set of 80"),
    ],
)
def test_more_queries_than_images_names_the_parameter(method: str, changes: dict, message: str) -> None:
    module, params = attack_params({"method": method, **BASE, **OWN[method], **changes}, "p")
    with pytest.raises(UserError, match=message):
        module.steal(Oracle(by_brightness, params.budget), thief(), params)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, rf"p\.method: missing; choose one of {', '.join(registry.names())}$"),
        ({"method": "magic"}, "unknown extraction attack 'magic'"),
        ({"method": "distillation", **BASE}, r"p\.temperature"),
        ({"method": "distillation", **BASE, "temperature": 0.0}, r"p\.temperature"),
        ({"method": "jacobian", **BASE, **OWN["jacobian"], "seeds": 61}, "seeds: 61 exceeds the budget of 60"),
        ({"method": "knockoff", **BASE, **OWN["knockoff"], "policy": "greedy"}, r"p\.policy"),
    ],
)
def test_bad_blocks_are_refused_by_name(block: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attack_params(block, "p")


def test_variants_and_kinds_are_looked_up_by_name() -> None:
    assert config.named_block({"a": {"x": 1}}, "a", "p") == {"x": 1}
    with pytest.raises(UserError, match="no block 'b'; there are a"):
        config.named_block({"a": {}}, "b", "p")
    with pytest.raises(UserError, match=r"p\.kind: wants one of trained, stolen, encoder, not 'borrowed'"):
        innocents.control_block({"kind": "borrowed"}, "p")
    stolen = innocents.control_block({"kind": "stolen", "attack": {"method": "knockoff"}}, "p")
    assert isinstance(stolen, innocents.StolenControl)


# --- the attacks ---


def test_distillation_loss_against_hand_computed_values() -> None:
    answers, logits = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.0, 0.0]])
    plain = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert distillation_loss(logits, answers, 1.0).item() == pytest.approx(plain, rel=1e-5)
    # At temperature 2 odds of 4 soften to odds of 2.
    soft = 4 * (2 / 3 * math.log(2 / 3 / 0.5) + 1 / 3 * math.log(1 / 3 / 0.5))
    assert distillation_loss(logits, answers, 2.0).item() == pytest.approx(soft, rel=1e-5)
    assert distillation_loss(answers.log() + 7, answers, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(logits, torch.tensor([[1.0, 0.0]]), 1.0).item() == pytest.approx(math.log(2), rel=1e-4)


def test_every_attack_is_tested_here_or_in_a_file_of_its_own() -> None:
    files = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    elsewhere = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for name in registry.names():
        assert name in OWN or re.search(rf"^from hallmark\.extraction\.attacks import .*\b{name}\b", elsewhere, re.M)


@pytest.mark.parametrize("name", OWN)
def test_attacks_copy_the_victim_within_budget_and_repeat_bit_for_bit(name: str) -> None:
    module, params = attack_params({"method": name, **BASE, **OWN[name]}, "p")
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 40})})
    copies, epochs = [], []
    for _ in range(2):
        oracle = Oracle(by_brightness, params.budget)
        robber = replace(thief(), callback=lambda epoch, metrics: epochs.append((epoch, set(metrics))))
        copies.append(module.steal(oracle, robber, params))
        assert oracle.used == params.budget
    assert epochs[:40] == [(k, {"distillation"}) for k in range(1, 41)]
    first, again = (models.logits(copy, toy().images, start()) for copy in copies)
    assert torch.equal(first, again)
    assert not copies[0].training
    assert float((first.argmax(1) == toy().labels).float().mean()) > 0.9


def test_attacks_other_than_the_adaptive_policy_never_see_labels() -> None:
    blind = replace(thief(), data=replace(toy(), labels=torch.zeros(80, dtype=torch.int64)))
    for name, own in (*list(OWN.items())[:2], ("knockoff", {**OWN["knockoff"], "policy": "random"})):
        module, params = attack_params({"method": name, **BASE, **own}, "p")
        first, second = (module.steal(Oracle(by_brightness, 60), t, params) for t in (thief(), blind))
        assert torch.equal(models.logits(first, toy().images, start()), models.logits(second, toy().images, start()))


def test_jacobian_step_follows_the_sign_of_the_gradient() -> None:
    class Linear(nn.Module):
        """Logits w_k . x: the gradient of log p_y is w_y - sum_k p_k w_k."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight.T

    network = Linear()
    images = torch.tensor([[100, 100, 100, 100], [0, 255, 10, 250]], dtype=torch.uint8).view(2, 1, 2, 2)
    labels = torch.tensor([2, 0])
    weight = network.weight.detach()
    x = images.flatten(1).float() / 255
    gradient = weight[labels] - (x @ weight.T).softmax(1) @ weight
    expected = (x + 0.1 * gradient.sign()).clamp(0, 1).mul(255).round()
    found = jacobian.augmented(network, images, labels, 0.1, start())  # type: ignore[arg-type]
    assert torch.equal(found.flatten(1).float(), expected)
    assert set((found.flatten(1)[0].int() - 100).abs().tolist()) <= {25, 26}


def test_jacobian_rounds_are_in_the_training_curve() -> None:
    rows: list[int] = []
    module, params = attack_params({"method": "jacobian", **BASE, **OWN["jacobian"]}, "p")
    means = replace(thief(), callback=lambda epoch, metrics: rows.append(epoch))
    module.steal(Oracle(by_brightness, params.budget), means, params)
    assert rows == list(range(rows[0], rows[0] + 2 * 1 + 3))


def test_jacobian_doubles_until_the_budget_is_spent() -> None:
    asked: list[int] = []

    def query(images: Tensor) -> Tensor:
        asked.append(len(images))
        return by_brightness(images)

    module, params = attack_params({"method": "jacobian", **BASE, **OWN["jacobian"], "rounds": 4}, "p")
    module.steal(Oracle(query, params.budget), thief(), params)
    assert asked == [20, 20, 20]


@pytest.mark.parametrize("form", ["soft", "labels"])
def test_jacobian_reservoir_augments_different_images_along_the_victims_labels(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, Tensor]] = []

    def spy(network: models.Network, images: Tensor, labels: Tensor, step: float, started: Any) -> Tensor:
        calls.append((images, labels))
        return real(network, images, labels, step, started)

    real = jacobian.augmented
    monkeypatch.setattr(jacobian, "augmented", spy)
    block = {"method": "jacobian", **BASE, **OWN["jacobian"], "budget": 70, "rounds": 3, "answers": form}
    module, params = attack_params(block, "p")
    asked: list[int] = []

    def query(images: Tensor) -> Tensor:
        asked.append(len(images))
        return by_brightness(images)

    own = replace(toy(), images=torch.randint(0, 256, (80, 1, 8, 8), generator=torch.Generator().manual_seed(5)).byte())
    means = replace(thief(), data=own, runtime=start())
    module.steal(params.oracle(query, own.classes, "p"), means, params)
    # Twice everything, then a sample without repetition of the 40 there are: 30 fit into the budget.
    assert asked == [20, 20, 30]
    assert [len(images) for images, _ in calls] == [20, 30]
    for images, labels in calls:
        assert len(images.flatten(1).unique(dim=0)) == len(images)
        assert torch.equal(labels, by_brightness(images.float() / 255).argmax(1))


# --- the adaptive policy ---


def test_preferences_follow_the_gradient_bandit() -> None:
    bandit = knockoff.Bandit(3, lr=2.0)
    bandit.update(torch.tensor([0, 1]), torch.tensor([1.0, 0.5]))
    # baseline 0.75, advantages +0.25 and -0.25, policy 1/3 each: mean of a ([z = a] - 1/3)
    assert bandit.baseline == pytest.approx(0.75)
    assert bandit.preferences.tolist() == pytest.approx([0.25, -0.25, 0.0])
    policy = bandit.preferences.softmax(0).tolist()
    bandit.update(torch.tensor([2]), torch.tensor([0.0]))
    advantage = 0 - 0.5
    assert bandit.baseline == pytest.approx(0.5)
    expected = [0.25 - 2 * advantage * policy[0], -0.25 - 2 * advantage * policy[1], 2 * advantage * (1 - policy[2])]
    assert bandit.preferences.tolist() == pytest.approx(expected)


def test_an_image_a_step_is_the_papers_rule() -> None:
    """H(z) += (r - mean of the last rewards) / N(z) x (1 - policy(z)), the others -= ... x policy (section 4.1.2)."""
    steps = [(0, 0.9), (2, 0.4), (0, 0.1), (1, 0.7), (0, 0.6), (2, 1.0)]
    bandit = knockoff.Bandit(3, lr=None, window=3)
    h, drawn, past = [0.0, 0.0, 0.0], [0, 0, 0], []
    for action, reward in steps:
        drawn[action] += 1
        recent = past[-3:] or [reward]
        advantage = (reward - sum(recent) / len(recent)) / drawn[action]
        total = sum(map(math.exp, h))
        policy = [math.exp(value) / total for value in h]
        h = [value + advantage * ((k == action) - policy[k]) for k, value in enumerate(h)]
        past.append(reward)
        bandit.update(torch.tensor([action]), torch.tensor([reward]))
    assert bandit.preferences.tolist() == pytest.approx(h, abs=1e-6)
    assert max(map(abs, h)) > 0.2


def test_policy_prefers_rewarded_classes_and_respects_the_stock() -> None:
    bandit, generator = knockoff.Bandit(4, lr=5.0), torch.Generator().manual_seed(0)
    for _ in range(30):
        actions = bandit.draw(40, torch.full((4,), 1000), generator)
        bandit.update(actions, (actions == 2).float())
    assert int(bandit.preferences.argmax()) == 2
    counts = bandit.draw(40, torch.tensor([30, 5, 10, 0]), generator).bincount(minlength=4)
    assert counts[2] == 10
    assert counts[3] == 0
    assert counts.sum() == 40
    assert bandit.draw(45, torch.tensor([30, 5, 10, 0]), generator).bincount(minlength=4).tolist() == [30, 5, 10, 0]


def test_rewards_by_hand() -> None:
    answers = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    assert knockoff.certainty_reward(answers).tolist() == pytest.approx([0.5, 0.7])
    mean = torch.tensor([0.4, 0.3, 0.3])
    assert knockoff.diversity_reward(answers, mean).tolist() == pytest.approx([0.3, 0.5])


def test_loss_reward_is_the_copys_cross_entropy_before_it_learns() -> None:
    params = config.parse(knockoff.Params, {"method": "knockoff", **BASE, **OWN["knockoff"]}, "p")
    online = knockoff._Online(thief(), params)  # pyright: ignore[reportPrivateUsage]
    images, answers = toy().images[:20], by_brightness(toy().images[:20].float() / 255)
    logits = models.logits(online.network, images, start())
    first = online.step(images, answers)
    expected = [-(answers[k] * logits[k].log_softmax(0)).sum() for k in range(20)]
    assert torch.allclose(first, torch.stack(expected), atol=1e-5)
    later = [online.step(images, answers) for _ in range(30)]
    assert later[-1].mean() < first.mean()


def test_adaptive_policy_by_the_papers_rule_spends_the_budget() -> None:
    own = {**OWN["knockoff"], "step": 1, "policy_lr": None, "baseline": "recent", "budget": 12}
    asked: list[int] = []

    def query(images: Tensor) -> Tensor:
        asked.append(len(images))
        return by_brightness(images)

    module, params = attack_params({"method": "knockoff", **BASE, **own}, "p")
    module.steal(Oracle(query, 12), thief(), params)
    assert asked == [1] * 12


def test_adaptive_policy_asks_no_image_twice() -> None:
    asked: list[Tensor] = []

    def query(images: Tensor) -> Tensor:
        asked.append(images)
        return by_brightness(images)

    module, params = attack_params({"method": "knockoff", **BASE, **OWN["knockoff"], "budget": 80}, "p")
    module.steal(Oracle(query, 80), thief(), params)
    assert len(torch.cat(asked).flatten(1).unique(dim=0)) == 80
