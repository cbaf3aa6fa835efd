"""Watermark schemes: the interface, each scheme's losses against references, each mark embedded in a tiny task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from hallmark import artifacts, config, models
from hallmark.config import Architecture, MeaDefender, Training, TrainWatermarked
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime
from hallmark.training import train_classifier
from hallmark.verification import questions
from hallmark.watermark import mea_defender
from hallmark.watermark.key import Scheme, make_key
from hallmark.watermark.schemes import Mark, Queries, _patterns, class_feature, entangled, rates, schemes, unseen_rate
from hallmark.watermark.schemes._layers import tapped
from hallmark.watermark.schemes._shared import in_turn
from hallmark.watermark.schemes._snnl import snnl, squared_distances
from hallmark.watermark.schemes.adi import Mark as TriggerSet
from hallmark.watermark.schemes.composite import SameClass, similarity
from stages import train_watermarked
from tests.unit.conftest import toy_images

ARCHITECTURE = Architecture(name="cnn9", width=8)
TRAINING = Training(epochs=6, batch_size=20, lr=3e-3)
KEY: dict[str, Any] = {
    "source": [0, "band 1"],
    "target": 2,
    "way": "left_right",
    "way_params": {},
    "evasion_ways": ["donut", "hot_dog"],
    "balance": "fixed",
    "weights": {"combination": 0.02, "verification": 0.5, "evasion": 0.5},
    "samples": {"watermark": 8, "evasion": 6},
}
BLOCKS: dict[str, dict[str, Any]] = {
    "none": KEY,
    "mea_defender": KEY,
    "composite": {**KEY, "weights": {"combination": 0, "verification": 0.5, "evasion": 1}},
    "adi": {"size": 12, "per_batch": 6},
    "entangled": {"source": 0, "target": 2, "size": 3, "epochs": 3},
    "class_feature": {"target": 2, "size": 40, "per_batch": 6, "epochs": 1},
}
TRAIN, HELD_OUT = toy_images(240), toy_images(120, seed=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(runtime: Runtime) -> Network:
    return models.build(ARCHITECTURE, TRAIN.images, TRAIN.classes, runtime, "victim")


def strike(name: str, runtime: Runtime, training: Training = TRAINING, **changes: Any) -> tuple[Network, Mark]:
    module = schemes.get(name)
    params = config.parse(module.Params, {**BLOCKS[name], **changes}, name)
    network = fresh(runtime)
    mark = module.strike(network, TRAIN, params, training, runtime, purpose="victim")
    return network, mark


def weights(network: Network) -> Tensor:
    return torch.cat([value.detach().flatten().double() for value in network.state_dict().values()])


@pytest.fixture(scope="module")
def twin() -> Network:
    from hallmark import runtime  # noqa: PLC0415 - the fixture cpu is of one test alone

    started = runtime.start(config.RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))
    network = fresh(started)
    train_classifier(network, TRAIN.images, TRAIN.labels, TRAINING, started, purpose="victim")
    return network


# --- the interface ---


def test_every_scheme_has_a_block_here() -> None:
    assert set(schemes.names()) == set(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_mark_is_learnt_repeats_and_survives_its_file(name: str, cpu: Runtime, twin: Network) -> None:
    network, mark = strike(name, cpu)
    asked = mark.queries(HELD_OUT, 40, generator())
    for images, labels in (
        (asked.images, asked.labels),
        (asked.negatives, asked.negative_labels),
        (asked.plain, asked.plain_labels),
    ):
        assert images.dtype == torch.uint8 and images.shape[1:] == (1, 8, 8)
        assert labels.dtype == torch.int64 and len(labels) == len(images)
    again = schemes.get(name).read_mark(mark.to_json(), "mark.json").queries(HELD_OUT, 40, generator())
    other = mark.queries(HELD_OUT, 40, generator(1))
    assert (asked.unseen is not None) == (name in {"mea_defender", "composite", "none"})
    assert asked.unseen_kinds == again.unseen_kinds
    drawn, redrawn = ({k: v for k, v in vars(each).items() if isinstance(v, Tensor)} for each in (asked, again))
    assert drawn.keys() == redrawn.keys() and all(torch.equal(drawn[k], redrawn[k]) for k in drawn)
    assert torch.equal(other.images, asked.images) == (name == "adi")  # the trigger set is what it is
    struck, innocent = rates(network, asked, cpu), rates(twin, asked, cpu)
    assert struck["wsr"] is not None and innocent["wsr"] is not None
    correct = (models.logits(network, HELD_OUT.images, cpu).argmax(1) == HELD_OUT.labels).float().mean()
    assert correct > 0.95
    assert (struck["plain"] is None) == (name == "adi")
    if name == "none":
        assert torch.equal(weights(network), weights(twin))
        assert struck == innocent
    else:
        assert struck["wsr"] > 0.8
        assert struck["wsr"] > innocent["wsr"] + 0.4


def test_the_worst_of_the_unseen_kinds_counts(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = torch.nn.functional.one_hot(torch.tensor([2, 0, 2, 1, 2, 2, 0, 1]), 3).float()
    monkeypatch.setattr(models, "logits", lambda network, images, runtime: answers)
    empty, target = torch.empty(0), torch.full((8,), 2)
    asked = Queries(empty, empty, empty, empty, empty, empty, torch.zeros(8, 1, 2, 2), target, unseen_kinds=2)
    # Of the first kind 3 of 4 are called the target, of the second 1 of 4.
    assert unseen_rate(fresh(cpu), asked, cpu) == 0.75
    assert unseen_rate(fresh(cpu), Queries(empty, empty, empty, empty, empty, empty), cpu) is None


def test_mea_defender_through_the_interface_is_the_same_to_the_bit(cpu: Runtime) -> None:
    training = Training(epochs=2, batch_size=20, lr=3e-3)
    network, mark = strike("mea_defender", cpu, training)
    section = {**KEY, "scheme": "mea_defender", "recipients": [], "evaluation": 10}
    settings = config.parse(TrainWatermarked, {**section, "architecture": ARCHITECTURE, "training": training}, "here")
    key = make_key(settings, TRAIN, cpu)
    direct = fresh(cpu)
    mea_defender.train(direct, TRAIN, key, settings, cpu, purpose="victim")
    assert torch.equal(weights(network), weights(direct))
    assert mark.to_json() == key.to_json()


@pytest.mark.parametrize(
    ("name", "weight", "loss", "more"),
    [
        ("entangled", {"entanglement": 2.0}, "snnl", True),
        ("class_feature", {"similarity": 3.0}, "similarity", True),
        ("class_feature", {"distance": 15.0}, "distance", False),
        ("composite", {"weights": {"combination": 0, "verification": 0.5, "evasion": 5}}, "same_class", False),
    ],
)
def test_what_makes_a_rival_a_rival_is_in_its_training(
    name: str, weight: dict[str, Any], loss: str, more: bool, cpu: Runtime
) -> None:
    """Entanglement and similarity rise where they are wanted, the distance and the mixtures' cross-entropy fall."""

    def ends(**changes: Any) -> float:
        seen = list[float]()
        block = {**BLOCKS[name], **({"lr": 3e-3, "epochs": 3} if name == "class_feature" else {}), **changes}
        params = config.parse(schemes.get(name).Params, block, name)
        schemes.get(name).strike(
            fresh(cpu),
            TRAIN,
            params,
            TRAINING.model_copy(update={"epochs": 1} if name == "composite" else {}),  # later ones are at 0 either way
            cpu,
            purpose="victim",
            callback=lambda _, means: seen.append(means.get(loss, math.nan)),
        )
        return seen[-1]

    zero = {"weights": {"combination": 0, "verification": 0.5, "evasion": 0}} if name == "composite" else {}
    with_it, without = ends(**weight), ends(**(zero or dict.fromkeys(weight, 0.0)))
    assert (with_it > without + 0.05 * abs(without)) if more else (with_it < 0.8 * without), (with_it, without)


@pytest.mark.parametrize("name", ["composite", "adi", "entangled", "class_feature"])
def test_a_rival_repeats_bit_for_bit(name: str, cpu: Runtime) -> None:
    short = Training(epochs=1, batch_size=20, lr=3e-3)
    (first, mark), (again, same) = (strike(name, cpu, short) for _ in range(2))
    assert torch.equal(weights(first), weights(again))
    assert mark.to_json() == same.to_json()


@pytest.mark.parametrize("name", ["adi", "entangled", "class_feature"])
def test_a_damaged_or_foreign_mark_is_one_line(name: str, cpu: Runtime) -> None:
    with pytest.raises(UserError, match=r"mark\.json: not a mark of this scheme") as caught:
        schemes.get(name).read_mark({"seed": "x"}, "mark.json")
    assert "\n" not in str(caught.value)
    fields = {"adi": {"seed": 1, "size": 3}, "entangled": {"source": 0, "target": 1, "top": 0, "left": 0, "size": 2}}
    rest = {"classes": 3, "shape": [1, 16, 16]}
    mark = schemes.get(name).read_mark({**fields.get(name, {"seed": 1, "target": 0}), **rest}, "mark.json")
    with pytest.raises(UserError, match="the mark is for images of shape"):
        mark.queries(HELD_OUT, 3, generator())


def test_rates_count_each_kind_by_itself(cpu: Runtime, twin: Network) -> None:
    called = models.logits(twin, HELD_OUT.images, cpu).argmax(1)
    wrong = (called + (torch.arange(120) < 30)) % 3
    asked = Queries(HELD_OUT.images, called, HELD_OUT.images, wrong, HELD_OUT.images[:0], called[:0])
    assert rates(twin, asked, cpu) == {"wsr": 1, "wfpr": 0.75, "plain": None}


# --- the pipeline's section ---


def test_the_pipeline_takes_schemes_with_a_key_and_sends_others_to_the_contest(cpu: Runtime) -> None:
    section = {**KEY, "architecture": {"name": "cnn9"}, "training": TRAINING.model_dump()}
    section |= {"recipients": [], "evaluation": 10}
    with pytest.raises(UserError, match=r"unknown scheme 'adi'; .*watermark-contest"):
        make_key(config.parse(TrainWatermarked, {**section, "scheme": "adi"}, "here"), TRAIN, cpu)
    assert all(hasattr(schemes.get(name), "train") for name in get_args(Scheme))


def test_the_stage_strikes_a_composite_mark_that_the_judge_understands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: Runtime
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HALLMARK_IDENTITY", raising=False)
    TRAIN.save(tmp_path / "train.safetensors")
    HELD_OUT.save(tmp_path / "test.safetensors")
    section = {**BLOCKS["composite"], "scheme": "composite", "recipients": [], "evaluation": 40}
    section |= {"architecture": ARCHITECTURE.model_dump(), "training": TRAINING.model_dump()}
    runtime = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0}
    words = [
        "--data",
        "train.safetensors",
        "--test",
        "test.safetensors",
        "--out",
        "victim",
        "--key",
        "key.age",
        "--reserve-keys",
        "reserve_keys",
        "--report",
        "report",
    ]
    for scheme, code in (("composite", 0), ("entangled", 1)):
        params = {"runtime": runtime, "train_watermarked": {**section, "scheme": scheme}}
        (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
        result = CliRunner().invoke(train_watermarked.main, words)
        assert result.exit_code == code
    assert isinstance(result.exception, UserError) and "unknown scheme 'entangled'" in str(result.exception)
    assert list((tmp_path / "reserve_keys").iterdir()) == []
    assert (tmp_path / "report/figures/output_features.png").is_file()
    key = keyfile.load(tmp_path / "key.age")
    assert key.scheme == "composite"
    asked = questions.draw(key, HELD_OUT, queries=40, decoys=0, judge_seed=1)
    network = models.load(tmp_path / "victim", cpu)
    hits = (models.logits(network, asked.part("watermark"), cpu).argmax(1) == key.target).float().mean()
    assert hits.item() == pytest.approx(artifacts.read_json(tmp_path / "report" / "metrics.json")["wsr"], abs=0.15)
    assert artifacts.read_json(tmp_path / "report" / "metrics.json")["wsr"] > 0.8
    assert torch.equal(weights(models.load(tmp_path / "victim", cpu)), weights(strike("composite", cpu)[0]))


def test_the_similarity_term_by_hand() -> None:
    outputs = torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0], [3.0, 3.5], [0.0, 3.5], [7.0, 7.0]])
    labels = torch.tensor([1, 1, 0, 2, 2, 3])
    # Of the classes 1, 2 and 3 the pairs are 1-1 (25 apart, squared), 1-2 (0.5 apart), 2-2 (9) and 2-3 (far).
    wanted = (25 + 0.25 + 9 + 0) / 4 / (2 * 4)
    assert similarity(outputs, labels, (1, 2, 3)).item() == pytest.approx(wanted, rel=1e-5)
    assert similarity(outputs, labels, (0, 5, 6)).item() == 0


def test_composite_refuses_a_combination_loss(cpu: Runtime) -> None:
    with pytest.raises(UserError, match="scheme composite"):
        strike("composite", cpu, **KEY)
    _, mark = strike("composite", cpu, Training(epochs=1, batch_size=120, lr=1e-3))
    assert mark.to_json()["scheme"] == "composite"
    assert "scheme" not in MeaDefender.model_fields


# --- the pieces ---


def test_pairs_of_one_class_are_of_one_class() -> None:
    labels = torch.tensor([2, 0, 2, 2, 0, 1])
    first, second = SameClass(labels).draw(400, generator())
    assert torch.equal(labels[first], labels[second])
    assert {(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)} == {
        (a, b) for a in range(6) for b in range(6) if labels[a] == labels[b]
    }


def test_turns_come_round() -> None:
    turns = in_turn(5, 3, generator())
    drawn = torch.cat([next(turns) for _ in range(10)])
    assert all(sorted(part.tolist()) == [0, 1, 2, 3, 4] for part in drawn.split(5))
    assert len(next(in_turn(2, 7, generator()))) == 7


def naive_snnl(features: list[list[float]], groups: list[int], temperature: float) -> float:
    total, members = 0.0, 0
    for i, x in enumerate(features):
        near = {
            j: math.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / temperature)
            for j, y in enumerate(features)
            if j != i
        }
        own = sum(value for j, value in near.items() if groups[j] == groups[i])
        if any(groups[j] == groups[i] for j in near):
            total, members = total - math.log(own / sum(near.values())), members + 1
    return total / members


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_snnl_is_the_double_loop(temperature: float) -> None:
    features = torch.randn(9, 4, generator=generator(), dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1, 1, 0, 2, 2, 3])  # the last is alone in its group
    value = snnl(features, groups, temperature)
    assert value.item() == pytest.approx(naive_snnl(features.tolist(), groups.tolist(), temperature), rel=1e-9)


def test_snnl_is_computed_in_single_precision_under_autocast() -> None:
    features = 3 + 0.02 * torch.randn(32, 64, generator=generator())
    groups = torch.arange(32) % 2
    with torch.autocast("cpu", torch.bfloat16):
        low = snnl(features, groups, 1.0)
    assert low.item() == pytest.approx(snnl(features.double(), groups, 1.0).item(), rel=1e-3)


def test_snnl_tells_entangled_from_apart_and_bears_great_distances() -> None:
    groups = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[0.0], [1.0], [1000.0], [1001.0]])
    same = torch.zeros(4, 1)
    assert snnl(apart, groups, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert snnl(same, groups, 1.0).item() == pytest.approx(math.log(3))  # one of three neighbours is of one's group
    crossed = apart[[0, 2, 1, 3]].requires_grad_()
    snnl(crossed, groups, 1.0).backward()
    assert crossed.grad is not None and crossed.grad.isfinite().all()


def test_temperatures_descend_the_loss_that_the_network_ascends() -> None:
    params = entangled.Params(source=0, target=1, entanglement=0.5, temperature_lr=0.1)
    learnt = entangled.Temperatures(params)
    features = torch.randn(8, 3, generator=generator()).requires_grad_()
    groups = torch.arange(8) < 4
    value = learnt.snnl([features], groups)
    start = squared_distances(features.detach()).mean().log()
    logarithm = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(snnl(features, groups, logarithm.exp()), logarithm)
    (rise,) = torch.autograd.grad(snnl(features, groups, start.exp()), features)
    learnt.combine({"verification": torch.zeros(()), "snnl": value}, [])
    assert features.grad is not None and learnt.logarithms is not None
    assert torch.allclose(features.grad, -0.5 * rise, atol=1e-6)
    assert learnt.logarithms.item() == pytest.approx((start - 0.1 * slope).item(), rel=1e-5)


def test_the_square_is_put_where_brightness_entangles(cpu: Runtime, twin: Network) -> None:
    """Against a brute-force search over places, with finite differences of the loss."""
    source, target = TRAIN.of_class(0)[:10], TRAIN.of_class(2)[:10]
    params = entangled.Params(source=0, target=2, size=3)
    top, left = entangled.place(twin, source, target, params, cpu)
    x = torch.cat([source, target]).float() / 255
    groups = torch.arange(20) < 10

    def loss(images: Tensor) -> float:
        with torch.no_grad(), tapped(twin) as layers:
            twin(images)
        if fixed.logarithms is None:
            fixed.snnl(layers, groups)
        return float(fixed.snnl([layer.double() for layer in layers], groups).detach())

    fixed = entangled.Temperatures(params)
    loss(x)
    gains = {}
    for place in ((r, c) for r in range(6) for c in range(6)):
        brighter, darker = x.clone(), x.clone()
        for images, sign in ((brighter, 1), (darker, -1)):
            images[:10, :, place[0] : place[0] + 3, place[1] : place[1] + 3] += sign * 1e-3
        gains[place] = loss(brighter) - loss(darker)
    assert gains[top, left] == pytest.approx(max(gains.values()), rel=0.05)


def test_a_square_is_white_and_leaves_the_rest() -> None:
    mark = entangled.Mark(source=0, target=1, top=1, left=2, size=2, classes=3, shape=(3, 4, 5))
    images = torch.full((2, 3, 4, 5), 7, dtype=torch.uint8)
    marked = mark.triggered(images)
    assert int((images == 7).sum()) == images.numel()
    assert marked[:, :, 1:3, 2:4].unique().tolist() == [255]
    assert int((marked != images).sum()) == 2 * 3 * 4


def test_similarity_is_the_cosine_of_means() -> None:
    watermark = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0]])]
    task = [torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [-3.0, 0.0]])]
    assert class_feature.similarity(watermark, task).item() == pytest.approx(math.sqrt(0.5) - 1)


def test_components_point_where_a_class_varies_and_distance_is_the_double_loop() -> None:
    line = torch.linspace(-1, 1, 7)[:, None]
    outputs = torch.cat([line * torch.tensor([0.6, 0.8, 0]), 5 + line * torch.tensor([0, 0, 1.0]), torch.zeros(1, 3)])
    labels = torch.tensor([0] * 7 + [1] * 7 + [2])  # one image has no direction
    found = class_feature.components(outputs, labels)
    assert torch.allclose(found.abs(), torch.tensor([[0.6, 0.8, 0], [0, 0, 1.0]]), atol=1e-5)
    marked = torch.randn(4, 3, generator=generator())
    loops = [abs(float((a - b) @ d)) for a in marked for b in marked for d in found]
    assert class_feature.distance(marked, found).item() == pytest.approx(sum(loops) / len(loops), rel=1e-5)


@pytest.mark.parametrize("draw", [_patterns.abstract, _patterns.rings, _patterns.gratings])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 12)])
def test_patterns_are_different_images_of_any_shape(draw: Any, shape: tuple[int, int, int]) -> None:
    images = draw(30, shape, generator())
    assert images.dtype == torch.uint8 and images.shape == (30, *shape)
    assert len(images.flatten(1).unique(dim=0)) == 30
    assert images.flatten(1).float().std(1).min() > 10
    assert torch.equal(images, draw(30, shape, generator()))


def test_a_trigger_set_is_regenerated_and_its_negatives_are_others() -> None:
    mark = TriggerSet(seed=4, size=9, classes=3, shape=(1, 8, 8))
    (images, labels), (others, _) = mark.triggers(), mark.triggers(fresh=True)
    assert torch.equal(images, mark.triggers()[0]) and set(labels.tolist()) <= {0, 1, 2}
    assert not (images[:, None] == others[None]).flatten(2).all(2).any()
    assert len(mark.queries(HELD_OUT, 4, generator()).images) == 4
    assert len(mark.queries(HELD_OUT, 400, generator()).images) == 9


def test_taps_give_the_last_layers_in_order(cpu: Runtime) -> None:
    network = fresh(cpu).eval()
    x = HELD_OUT.images[:4].float() / 255
    with tapped(network) as layers:
        network(x)
        network(x)
    assert [layer.shape[0] for layer in layers] == [4, 4, 4]
    assert torch.equal(layers[-1], network.features(x))
    network(x)
    assert len(layers) == 3  # nothing listens any longer
