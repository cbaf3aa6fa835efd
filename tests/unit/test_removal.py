"""Removals: each does to a model what it says, leaves the model it was given alone, and repeats to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from hallmark import artifacts, models, training
from hallmark.config import Architecture, Training
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.detection import triggers
from hallmark.detection.models import neural_cleanse
from hallmark.errors import UserError
from hallmark.extraction import black_box
from hallmark.models import Network
from hallmark.removal import Means, registry, removal_params
from hallmark.removal.methods import (
    adversarial_fine_tuning,
    fine_pruning,
    nad,
    quantization,
    random_mixtures,
    unlearning,
    wrk,
)
from hallmark.runtime import Runtime
from stages import remove_watermark
from tests.unit.conftest import toy_images

HOW = {"epochs": 2, "batch_size": 20, "lr": 0.003}
TRUE = {"labels": "ground_truth", "images": 60, "training": HOW}
ATTACK = {
    "method": "distillation",
    "budget": 60,
    "temperature": 2.0,
    "architecture": {"name": "cnn9", "width": 8},
    "training": HOW,
}
BLOCKS: dict[str, dict[str, Any]] = {
    "fine_tuning": {"mode": "FTAL", **TRUE},
    "random_mixtures": {**TRUE},
    "pruning": {"amount": 0.5},
    "fine_pruning": {"share": 0.5, **TRUE},
    "quantization": {},
    "transfer": {
        "images": {"source": "digits"},
        "training": {"epochs": 1, "batch_size": 200, "lr": 0.003},
        "probe": 60,
        "probe_training": {**HOW, "epochs": 8},
    },
    "adversarial_fine_tuning": {**TRUE, "steps": 2},
    "nad": {"teacher_epochs": 1, **TRUE},
    "averaging": {"fine_tuning": {"mode": "FTAL", **TRUE}},
    "second_extraction": {"attack": ATTACK},
    "wrk": {**TRUE},
    "unlearning": {**TRUE, "reversal": {"steps": 8, "success": 0.3}},
    "stacked": {"steps": [{"method": "pruning", "amount": 0.3}, {"method": "fine_tuning", "mode": "FTLL", **TRUE}]},
}


def trained(cpu: Runtime, name: str = "cnn9", width: int = 8, epochs: int = 6) -> Network:
    """A network that does the toy task, with the whole of its own images."""
    data = toy_images(90, seed=1)
    network = models.build(Architecture(name=name, width=width), data.images, data.classes, cpu, "network")
    how = Training(epochs=epochs, batch_size=15, lr=0.003)
    training.train_classifier(network, data.images, data.labels, how, cpu, purpose="network")
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    """Shared, for a removal may not change it."""
    from hallmark import runtime  # noqa: PLC0415 - for this alone
    from hallmark.config import RuntimeConfig  # noqa: PLC0415

    return trained(runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0)))


def means(cpu: Runtime, victim: Network, **changes: Any) -> Means:
    own = Means(toy_images(90, seed=2), black_box(victim, cpu), cpu, "remove/x", where="p: x")
    return replace(own, **changes)


def removed(cpu: Runtime, network: Network, method: str, changes: dict[str, Any] | None = None, **own: Any) -> Network:
    module, params = removal_params({"method": method, **BLOCKS[method], **(changes or {})}, "p: x")
    return module.remove(network, means(cpu, network, **own), params)


def same(one: Network, other: Network) -> bool:
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())


def test_every_method_is_tried_here() -> None:
    assert sorted(BLOCKS) == registry.names()


@pytest.mark.parametrize("method", BLOCKS)
def test_a_removal_repeats_to_the_bit_and_leaves_its_model_alone(method: str, network: Network, cpu: Runtime) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    once, twice = removed(cpu, network, method), removed(cpu, network, method)
    assert same(once, twice)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training and not once.training
    assert not same(once, network)
    assert once.spec.classes == network.spec.classes
    held_out = toy_images(60, seed=7)
    # Three classes: a third by chance.  The toy task is easy enough that no removal here may cost it all.
    assert training.accuracy(once, held_out, cpu) > 0.5
    if method not in ("pruning", "quantization"):  # which draw nothing
        assert not same(removed(cpu, network, method, purpose="remove/y"), once)


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18"])
@pytest.mark.parametrize("method", ["pruning", "fine_pruning", "quantization", "nad", "averaging", "wrk"])
def test_every_architecture(method: str, name: str, cpu: Runtime) -> None:
    other = trained(cpu, name, epochs=1)
    made = removed(cpu, other, method)
    assert not same(made, other)
    assert torch.isfinite(models.logits(made, toy_images(30).images, cpu)).all()


# --- fine-tuning ---


@pytest.mark.parametrize("mode", ["FTAL", "FTLL", "RTAL", "RTLL"])
def test_modes_change_what_they_may(mode: str, network: Network, cpu: Runtime) -> None:
    tuned = removed(cpu, network, "fine_tuning", {"mode": mode})
    trunk_kept = all(
        torch.equal(value, network.trunk.state_dict()[name]) for name, value in tuned.trunk.state_dict().items()
    )
    assert trunk_kept == mode.endswith("LL")
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    # With a rate next to nothing the head stays where it began: at the old weights, or drawn afresh.
    still = removed(cpu, network, "fine_tuning", {"mode": mode, "training": {**HOW, "lr": 1e-12}})
    old, new = network.head.state_dict()["weight"], still.head.state_dict()["weight"]
    assert torch.allclose(old, new, atol=1e-6) == mode.startswith("FT")


def test_the_last_layer_alone_leaves_batch_statistics_alone(cpu: Runtime) -> None:
    other = trained(cpu, "resnet18", epochs=1)
    tuned = removed(cpu, other, "fine_tuning", {"mode": "FTLL"})
    assert all(torch.equal(v, other.trunk.state_dict()[n]) for n, v in tuned.trunk.state_dict().items())


def test_the_victims_answers_are_what_is_learnt(network: Network, cpu: Runtime) -> None:
    asked: list[Tensor] = []

    def victim(images: Tensor) -> Tensor:
        asked.append(images)
        return torch.eye(3)[torch.full((len(images),), 1)]

    changes = {"labels": "victim", "images": 50, "training": {**HOW, "epochs": 12}}
    tuned = removed(cpu, network, "fine_tuning", changes, ask=victim)
    held_out = toy_images(60, seed=7).images
    assert (models.logits(tuned, held_out, cpu).argmax(1) == 1).float().mean() > 0.9
    assert len(torch.cat(asked)) == 50
    own = toy_images(90, seed=2).images
    assert {tuple(i.flatten().tolist()) for i in torch.cat(asked)} <= {
        tuple(to_float(i).flatten().tolist()) for i in own
    }
    # True labels do not depend on the victim.
    assert same(removed(cpu, network, "fine_tuning", ask=victim), removed(cpu, network, "fine_tuning"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 91}, r"p: x\.images: 91 exceeds the query set of 90"),
        ({"temperature": 7.0}, r"p: x: temperature: a true label has no softness"),
        ({"training": {**HOW, "mix": "mixup"}}, r"p: x: training\.mix: a removal fits"),
        ({"mode": "FT"}, r"p: x\.mode"),
        ({"images": 0}, r"p: x\.images"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    changes: dict[str, Any], message: str, network: Network, cpu: Runtime
) -> None:
    with pytest.raises(UserError, match=message):
        removed(cpu, network, "fine_tuning", changes)


def test_an_unknown_method_is_one_line() -> None:
    with pytest.raises(UserError, match="unknown removal 'magic': choose one of adversarial_fine_tuning"):
        removal_params({"method": "magic"}, "p: x")
    with pytest.raises(UserError, match=r"p: x\.method: missing"):
        removal_params({}, "p: x")


# --- parts against closed forms ---


def test_wrong_labels_are_wrong_and_evenly_spread() -> None:
    right = torch.tensor([[0, 1], [2, 2]]).repeat(3000, 1)
    found = random_mixtures.wrong_labels(right, 4, torch.Generator().manual_seed(0))
    assert not (found[:, None] == right).any()
    assert found[::2].bincount(minlength=4).tolist()[:2] == [0, 0]
    shares = found[1::2].bincount(minlength=4) / 3000
    assert shares.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.04)


def test_random_mixtures_are_unlearnt(network: Network, cpu: Runtime) -> None:
    changes = {"training": {**HOW, "epochs": 25}, "ways": ["top_bottom"], "weight": 3.0}
    data = toy_images(90, seed=7)
    pairs = [data.of_class(label)[:20] for label in (0, 2)]
    from hallmark.watermark.ways import ways  # noqa: PLC0415 - for this alone

    way = ways.get("top_bottom")
    mixed = way.combine(*pairs, way.Params(), torch.Generator().manual_seed(0))
    said = models.logits(removed(cpu, network, "random_mixtures", changes), mixed, cpu).argmax(1)
    assert (said == 1).float().mean() > 0.6  # of three classes the only one that is in neither image
    with pytest.raises(UserError, match="unknown way to combine 'upside_down'"):
        removed(cpu, network, "random_mixtures", {"ways": ["upside_down"]})


def test_a_reversed_trigger_is_unlearnt(cpu: Runtime) -> None:
    def stamped(images: Tensor) -> Tensor:
        images = images.clone()
        images[:, :, :3, :3] = 255
        return images

    data = toy_images(150, seed=1)
    infected = torch.arange(len(data)) % 4 == 0
    data = replace(
        data,
        images=torch.where(infected[:, None, None, None], stamped(data.images), data.images),
        labels=torch.where(infected, 1, data.labels),
    )
    backdoored = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, cpu, "network")
    how = Training(epochs=12, batch_size=15, lr=0.003)
    training.train_classifier(backdoored, data.images, data.labels, how, cpu, purpose="network")
    others = toy_images(90, seed=7)
    triggered = stamped(others.images[others.labels != 1])

    def success(network: Network) -> float:
        return float((models.logits(network, triggered, cpu).argmax(1) == 1).float().mean())

    search = {"steps": 60, "success": 0.8}
    how = {"images": 80, "training": {"epochs": 8, "batch_size": 20, "lr": 1e-3}}
    unlearnt = removed(cpu, backdoored, "unlearning", {**how, "share": 0.5, "reversal": search})
    assert success(backdoored) > 0.9 and success(removed(cpu, backdoored, "fine_tuning", how)) > 0.9
    assert success(unlearnt) < 0.3
    assert training.accuracy(unlearnt, others, cpu) > 0.9


def test_a_share_of_each_batch_is_stamped_with_one_patch_each(
    network: Network, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, pattern = (
        torch.tensor(values).reshape(2, 1, 1, 1).expand(2, 1, 8, 8) for values in ([0.25, 0.75], [0.2, 0.9])
    )
    stamped: list[tuple[int, set[tuple[float, float]]]] = []
    real = triggers.blend

    def blend(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
        pairs = torch.stack([mask[:, 0, 0, 0], pattern[:, 0, 0, 0]], 1)
        stamped.append((len(images), {(round(m, 2), round(p, 2)) for m, p in pairs.tolist()}))
        return real(images, mask, pattern)

    monkeypatch.setattr(triggers, "blend", blend)
    monkeypatch.setattr(unlearning, "sought", lambda *_: (mask, pattern))
    removed(cpu, network, "unlearning", {"share": 0.3})
    assert [count for count, _ in stamped] == [6] * 6  # 60 images, two epochs of batches of 20
    assert set.union(*(pairs for _, pairs in stamped)) == {(0.25, 0.2), (0.75, 0.9)}


def test_patches_are_sought_on_the_images_that_are_learnt(
    network: Network, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ImageDataset] = []
    real = neural_cleanse.reverse

    def reverse(network: Network, trusted: ImageDataset, *others: Any) -> Any:
        seen.append(trusted)
        return real(network, trusted, *others)

    monkeypatch.setattr(neural_cleanse, "reverse", reverse)
    removed(cpu, network, "unlearning")
    (trusted,) = seen
    assert torch.equal(trusted.images, means(cpu, network).choose(60).images)


def test_which_patches_are_unlearnt(network: Network, cpu: Runtime) -> None:
    block = {"method": "unlearning", **TRUE, "reversal": {"steps": 40, "success": 0.5}}
    found = {}
    for targets in ("smallest", "all"):
        params = unlearning.Params.model_validate({**block, "targets": targets})
        found[targets] = unlearning.sought(network, means(cpu, network), params)
    (mask, pattern), (masks, patterns) = found["smallest"], found["all"]
    assert mask.shape == (1, 1, *mask.shape[2:]) and len(masks) == len(patterns) > 1
    smallest = masks.sum((1, 2, 3)).argmin()
    assert torch.equal(mask[0], masks[smallest]) and torch.equal(pattern[0], patterns[smallest])
    assert not same(removed(cpu, network, "unlearning", {"targets": "all"}), removed(cpu, network, "unlearning"))
    # Where no patch works, what is left is fine-tuning.
    hopeless = {"reversal": {"steps": 1}}
    assert same(removed(cpu, network, "unlearning", hopeless), removed(cpu, network, "fine_tuning"))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruning_takes_the_smallest(scope: str, network: Network, cpu: Runtime) -> None:
    pruned = removed(cpu, network, "pruning", {"amount": 0.7, "scope": scope})
    weights = {
        name: (layer.weight.detach(), network.state_dict()[f"{name}.weight"])
        for name, layer in pruned.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    zeros = torch.cat([new.flatten() == 0 for new, _ in weights.values()])
    assert float(zeros.float().mean()) == pytest.approx(0.7, abs=0.01)
    every = torch.cat([old.flatten().abs() for _, old in weights.values()])
    for new, old in weights.values():
        gone, kept = old[new == 0].abs(), old[new != 0].abs()
        assert torch.equal(new[new != 0], old[new != 0])
        assert gone.max() <= kept.min()
        if scope == "layer":
            assert float((new == 0).float().mean()) == pytest.approx(0.7, abs=0.03)
        else:
            assert gone.max() <= every.sort().values[int(0.7 * len(every))]
    assert set(pruned.state_dict()) == set(network.state_dict())


def test_dormant_channels_go_and_stay_gone(network: Network, cpu: Runtime) -> None:
    layer = [m for m in network.trunk.modules() if isinstance(m, nn.Conv2d)][-1]
    own = means(cpu, network)
    images = own.choose(60).images
    activity = fine_pruning.mean_activation(network, layer, images, own)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    network(to_float(images))
    handle.remove()
    assert torch.allclose(activity, seen[0].relu().mean((0, 2, 3)), atol=1e-5)
    pruned = removed(cpu, network, "fine_pruning", {"share": 0.25})
    weight = [m for m in pruned.trunk.modules() if isinstance(m, nn.Conv2d)][-1].weight
    zero = (weight.flatten(1) == 0).all(1)
    assert set(zero.nonzero().flatten().tolist()) == set(activity.argsort(stable=True)[: len(zero) // 4].tolist())
    assert set(pruned.state_dict()) == set(network.state_dict())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantized_weights_lie_on_a_grid(bits: int, network: Network, cpu: Runtime) -> None:
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weight[4] = 0
    largest = 2 ** (bits - 1) - 1
    found = quantization.rounded(weight, bits)
    scale = weight.abs().flatten(1).amax(1)[:, None, None, None] / largest
    assert torch.allclose(found[:4], (weight[:4] / scale[:4]).round() * scale[:4], atol=1e-6)
    assert not found[4].any()
    assert (found - weight).abs().max() <= scale.max() / 2 + 1e-6
    made = removed(cpu, network, "quantization", {"bits": bits})
    rows = [row for m in made.modules() if isinstance(m, nn.Conv2d | nn.Linear) for row in m.weight.flatten(1)]
    assert max(len(row.unique()) for row in rows) <= 2 * largest + 1


def test_pgd_stays_in_its_ball_and_raises_the_loss(network: Network) -> None:
    data = toy_images(30, seed=3)
    params = adversarial_fine_tuning.Params(
        **{"method": "adversarial_fine_tuning", **TRUE, "eps": 0.05, "step": 0.02, "steps": 6}  # type: ignore[arg-type]
    )
    images = to_float(data.images)

    def loss(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(x), data.labels)

    worst = adversarial_fine_tuning.pgd(loss, images, torch.zeros_like(images), params)
    assert float((worst - images).abs().max()) <= 0.05 + 1e-6
    assert worst.min() >= 0 and worst.max() <= 1
    noise = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    assert loss(worst) > loss(noise.clamp(0, 1)) > 0
    # A linear loss has its maximum in a corner of the ball.
    slope = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(1))
    corner = adversarial_fine_tuning.pgd(lambda x: (x * slope).sum(), images, torch.zeros_like(images), params)
    assert torch.allclose(corner, (images + 0.05 * slope.sign()).clamp(0, 1), atol=1e-6)


def test_adversarial_fine_tuning_learns_from_the_worst_images(network: Network, cpu: Runtime) -> None:
    how = {"training": {**HOW, "epochs": 12, "lr": 0.005}}
    hard = removed(cpu, network, "adversarial_fine_tuning", {"eps": 0.2, "step": 0.06, "steps": 5, **how})
    plain = removed(cpu, network, "fine_tuning", {"mode": "FTAL", **how})
    params = adversarial_fine_tuning.Params(
        **{"method": "adversarial_fine_tuning", **TRUE, "eps": 0.2, "step": 0.06, "steps": 5}  # type: ignore[arg-type]
    )
    data = toy_images(150, seed=31)
    images = to_float(data.images)

    def withstood(model: Network) -> float:
        worst = adversarial_fine_tuning.pgd(
            lambda x: nn.functional.cross_entropy(model(x), data.labels), images, torch.zeros_like(images), params
        )
        return float((model(worst).argmax(1) == data.labels).float().mean())

    assert withstood(hard) > withstood(plain) + 0.15


def test_attention_maps_by_hand(cpu: Runtime) -> None:
    outputs = torch.tensor([[[[3.0, 0.0]], [[0.0, -2.0]]]])
    assert nad.attention(outputs).flatten().tolist() == pytest.approx([9 / 97**0.5, 4 / 97**0.5])
    other = trained(cpu, epochs=1)
    with nad.convolutions(other) as found:
        other(to_float(toy_images(4).images))
        shapes = [tuple(output.shape[2:]) for output in found()]
    assert shapes == sorted(set(shapes), reverse=True)
    assert len(shapes) > 1
    # A student that weighs attention alone comes to look where its teacher does.
    module, params = removal_params(
        {"method": "nad", **BLOCKS["nad"], "training": {**HOW, "epochs": 10}, "beta": 0.0}, "p"
    )
    free = module.remove(other, means(cpu, other), params)
    bound = module.remove(other, means(cpu, other), params.model_copy(update={"beta": 100.0}))
    teacher = removed(cpu, other, "fine_tuning", {"training": {**HOW, "epochs": 1}}, purpose="remove/x")
    assert distance(bound, teacher) < distance(free, teacher)


def distance(one: Network, other: Network) -> float:
    images = to_float(toy_images(40, seed=5).images)
    with torch.no_grad(), nad.convolutions(one) as ours, nad.convolutions(other) as theirs:
        one(images)
        other(images)
        pairs = zip(ours(), theirs(), strict=True)
        return float(sum((nad.attention(a) - nad.attention(b)).pow(2).sum() for a, b in pairs))


def test_wrk_moves_images_up_one_logit_and_shifts_the_head(network: Network, cpu: Runtime) -> None:
    images = to_float(toy_images(200, seed=3).images)
    moved = wrk.toward_random_classes(network, images, 0.05, 3, torch.Generator().manual_seed(0))
    drawn = torch.randint(3, (2,), generator=torch.Generator().manual_seed(0)).tolist()
    assert float((moved - images).abs().max()) == pytest.approx(0.05, abs=1e-6)
    assert moved.min() >= 0 and moved.max() <= 1
    with torch.no_grad():
        rise = network(moved) - network(images)
    for part, label in zip((slice(0, 128), slice(128, 200)), drawn, strict=True):
        assert float(rise[part, label].mean()) > 0

    def likeness(model: Network) -> float:
        heads = [m.head.state_dict()["weight"].flatten() for m in (model, network)]
        return float(nn.functional.cosine_similarity(*heads, dim=0))

    how = {**HOW, "epochs": 10, "lr": 0.01}
    far, near = (removed(cpu, network, "wrk", {"shift": shift, "training": how}) for shift in (10.0, 0.0))
    assert likeness(far) < likeness(near) - 0.2

    # What lies toward other classes is called otherwise afterwards.
    data = toy_images(150, seed=33)
    toward = wrk.toward_random_classes(network, to_float(data.images), 0.15, 3, torch.Generator().manual_seed(1))

    def kept(relabelled: float) -> float:
        model = removed(cpu, network, "wrk", {"relabelled": relabelled, "step": 0.15, "training": how})
        return float((model(toward).argmax(1) == data.labels).float().mean())

    assert kept(1.0) < kept(0.01) - 0.1


def test_averaging_is_the_mean_of_two(network: Network, cpu: Runtime) -> None:
    block = {"mode": "FTAL", **TRUE}
    own = means(cpu, network)
    module, params = removal_params({"method": "fine_tuning", **block}, "p")
    partner = module.remove(network, own.part("fine_tuning"), params)
    mean = removed(cpu, network, "averaging", {"fine_tuning": block, "weight": 0.25})
    for name, value in network.state_dict().items():
        expected = 0.75 * value + 0.25 * partner.state_dict()[name]
        assert torch.allclose(mean.state_dict()[name], expected, atol=1e-6)
    soup = removed(cpu, network, "averaging", {"fine_tuning": None, "attack": ATTACK})
    assert not same(soup, mean)
    for changes, words in (
        ({"attack": ATTACK}, "wants one of them"),
        ({"fine_tuning": None}, "wants one of them"),
        ({"fine_tuning": None, "attack": {**ATTACK, "architecture": {"name": "cnn9", "width": 9}}}, "another architec"),
        ({"fine_tuning": None, "attack": {**ATTACK, "images": {"source": "digits"}}}, "take it out"),
    ):
        with pytest.raises(UserError, match=words):
            removed(cpu, network, "averaging", changes)


def test_averaged_batch_statistics_are_those_of_the_images(cpu: Runtime) -> None:
    other = trained(cpu, "resnet18", epochs=1)
    mean = removed(cpu, other, "averaging")
    norm = next(m for m in mean.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    handle = norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    mean(to_float(toy_images(90, seed=2).images))
    handle.remove()
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4)


def test_a_thief_of_a_thief_never_asks_the_victim(network: Network, cpu: Runtime) -> None:
    def victim(images: Tensor) -> Tensor:
        raise AssertionError("asked")

    copy = removed(cpu, network, "second_extraction", ask=victim)
    assert copy.spec.architecture.width == 8
    with pytest.raises(UserError, match=r"p: x\.attack\.images: .*take it out"):
        removed(cpu, network, "second_extraction", {"attack": {**ATTACK, "images": {"source": "digits"}}})
    with pytest.raises(UserError, match=r"p: x\.attack\.budget: 91 exceeds"):
        removed(cpu, network, "second_extraction", {"attack": {**ATTACK, "budget": 91}})


def test_a_stack_is_its_steps_in_order(network: Network, cpu: Runtime) -> None:
    steps = BLOCKS["stacked"]["steps"]
    expected, own = network, means(cpu, network)
    for k, block in enumerate(steps):
        module, params = removal_params(block, "p")
        expected = module.remove(expected, own.part(f"steps.{k}"), params)
    assert same(removed(cpu, network, "stacked"), expected)
    turned = removed(cpu, network, "stacked", {"steps": steps[::-1]})
    assert not same(turned, expected)
    assert float((turned.head.state_dict()["weight"] == 0).float().mean()) > 0.05  # pruned last
    for changed, words in (
        ([steps[0]], "at least 2"),
        ([*steps, *steps], "at most 3"),
        ([steps[0], {"method": "stacked", "steps": steps}], "write its steps here"),
        ([steps[0], {"method": "pruning", "amount": 2.0}], r"p: x\.steps\.1\.amount"),
    ):
        with pytest.raises(UserError, match=words):
            removed(cpu, network, "stacked", {"steps": changed})


def test_features_are_probed_after_a_transfer(network: Network, cpu: Runtime) -> None:
    made = removed(cpu, network, "transfer")
    assert made.head.state_dict()["weight"].shape == network.head.state_dict()["weight"].shape
    kept = [torch.equal(v, network.trunk.state_dict()[n]) for n, v in made.trunk.state_dict().items()]
    assert not any(kept)
    with pytest.raises(UserError, match=r"p: x\.probe: 91 exceeds"):
        removed(cpu, network, "transfer", {"probe": 91})


# --- the stage ---


def run_stage(folder: Path, block: dict[str, Any], **paths: str) -> Path:
    """Run the stage on toy files; the report's folder."""
    runtime = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0}
    params = {
        "runtime": runtime,
        "extract_attack": {"attacks": {"copy": {}}},
        "remove_watermark": {"removals": {"clean": block}},
    }
    (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    used = {"model": "models/extracted/copy", "victim": "models/victim", "queries": "queries.safetensors",
            "test": "test.safetensors", "out": "models/removed/clean", "report": "report", **paths}  # fmt: skip
    words = ["--removal", "clean", "--params", str(folder / "params.yaml")]
    for name, path in used.items():
        words += [f"--{name}", str(folder / path)]
    CliRunner().invoke(remove_watermark.main, words, catch_exceptions=False, standalone_mode=False)
    return folder / "report"


@pytest.fixture
def workplace(tmp_path: Path, network: Network, cpu: Runtime) -> Path:
    """Files as the pipeline has them."""
    models.save(network, tmp_path / "models/victim")
    models.save(trained(cpu, epochs=3), tmp_path / "models/extracted/copy")
    toy_images(90, seed=2).save(tmp_path / "queries.safetensors")
    toy_images(60, seed=7).save(tmp_path / "test.safetensors")
    return tmp_path


def test_the_stage_reports_before_and_after(workplace: Path, cpu: Runtime) -> None:
    block = {"model": "extracted/copy", "method": "fine_tuning", **BLOCKS["fine_tuning"]}
    report = run_stage(workplace, block)
    copy, made = (models.load(workplace / f"models/{name}", cpu) for name in ("extracted/copy", "removed/clean"))
    victim = models.load(workplace / "models/victim", cpu)
    held_out = toy_images(60, seed=7)
    said = {name: models.logits(model, held_out.images, cpu).argmax(1) for name, model in
            (("before", copy), ("after", made), ("victim", victim))}  # fmt: skip
    found = artifacts.read_json(report / "metrics.json")
    expected = {
        "accuracy": float((said["after"] == held_out.labels).float().mean()),
        "accuracy_before": float((said["before"] == held_out.labels).float().mean()),
        "fidelity": float((said["after"] == said["victim"]).float().mean()),
        "fidelity_before": float((said["before"] == said["victim"]).float().mean()),
    }
    assert found == pytest.approx(expected, abs=1e-6)
    rows = (report / "training.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "epoch,fit" and len(rows) == 1 + HOW["epochs"]
    assert (report / "figures/losses.png").is_file()


def test_a_removal_that_trains_nothing_has_a_curve_without_epochs(workplace: Path) -> None:
    block = {"model": "victim", "method": "quantization"}
    report = run_stage(workplace, block, model="models/victim")
    assert (report / "training.csv").read_text(encoding="utf-8").splitlines() == ["epoch"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"model": "extracted/other", "method": "quantization"}, r"removals\.clean\.model: .*victim, extracted/copy"),
        ({"model": "victim", "method": "quantization"}, r"removals\.clean\.model: is victim, but --model is "),
        ({"method": "quantization"}, r"removals\.clean\.model: "),
        ({"model": "extracted/copy", "method": "pruning"}, r"removals\.clean\.amount: field required"),
    ],
)
def test_the_stage_refuses_a_bad_block(block: dict[str, Any], message: str, workplace: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_stage(workplace, block)
