"""Watermark: the key, ways to combine, samples, losses against hand-computed values, the training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import config, models, runtime, training
from hallmark.config import (
    Architecture,
    FirstPhase,
    LossWeights,
    RuntimeConfig,
    Training,
    TrainUnmarked,
    TrainWatermarked,
    WatermarkSamples,
)
from hallmark.data.dataset import ImageDataset
from hallmark.errors import UserError
from hallmark.watermark import losses, mea_defender, sampler, samples
from hallmark.watermark.key import Key, make_key, make_reserve_keys
from hallmark.watermark.ways import HIDING, untrained, ways

CLASSES = ("a", "b", "c", "d")


def make(**changes: object) -> Key:
    fields: dict = {
        "scheme": "mea_defender",
        "way": "top_bottom",
        "way_params": {},
        "evasion_ways": HIDING,
        "source": (0, 1),
        "target": 2,
        "seed": 5,
        "classes": CLASSES,
        "shape": (1, 8, 8),
    }
    return Key(**{**fields, **changes})


def toy(per_class: int = 6, seed: int = 0) -> ImageDataset:
    """Class k is the constant 50 k plus a little noise: easy to tell apart, every image different."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    noise = torch.randint(0, 30, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return ImageDataset((labels[:, None, None, None] * 50 + noise).byte(), labels, torch.arange(len(labels)), CLASSES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start() -> runtime.Runtime:
    return runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=3))


def settings(**changes: object) -> TrainWatermarked:
    fields: dict = {
        "scheme": "mea_defender",
        "architecture": Architecture(name="cnn9", width=4),
        "training": Training(epochs=2, batch_size=16, lr=2e-3),
        "source": [0, "b"],
        "target": 2,
        "way": "top_bottom",
        "way_params": {},
        "evasion_ways": list(HIDING),
        "balance": "fixed",
        "weights": LossWeights(combination=0.05, verification=0.5, evasion=0.5),
        "samples": WatermarkSamples(watermark=4, evasion=5),
        "recipients": [],
        "evaluation": 10,
    }
    return TrainWatermarked(**{**fields, **changes})


# --- the key ---


def test_key_survives_its_file_and_keeps_its_commitment(tmp_path: Path) -> None:
    key = make(way="halves", way_params={"jitter": 1})
    key.save(tmp_path / "key.json")
    again = Key.load(tmp_path / "key.json")
    assert again.commitment() == key.commitment()
    assert again.way_params == {"axis": "columns", "jitter": 1, "shift": 3, "swap": True}


def test_commitment_binds_every_field() -> None:
    other = [{"seed": 6}, {"target": 3}, {"source": (1, 0)}, {"way": "left_right"}, {"classes": ("a", "b", "c", "e")}]
    commitments = {make(**change).commitment() for change in [{}, *other]}
    assert len(commitments) == len(other) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": (1, 1)}, "two different"),
        ({"target": 1}, "is a source class"),
        ({"scheme": "mea_offender"}, "unknown scheme 'mea_offender'"),
        ({"target": 4}, "out of range"),
        ({"way": "sideways"}, "unknown way to combine 'sideways'"),
        ({"way": "donut"}, "own way"),
        ({"evasion_ways": ()}, "evasion_ways is empty"),
        ({"way": "halves", "way_params": {"jitters": 1}}, "halves.jitters"),
    ],
)
def test_nonsensical_keys_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "value", [[], {"format": 1}, {"format": 2}, {"source": [0]}, {"seed": "5"}, {"target": 0}, {"scheme": ""}]
)
def test_bad_key_files_are_one_clear_line(tmp_path: Path, value: object) -> None:
    path = tmp_path / "key.json"
    stored = {**make().to_json(), **value} if isinstance(value, dict) and len(value) == 1 else value
    if value == {"format": 1}:
        stored = value  # all else is missing
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"key\.json") as caught:
        Key.load(path)
    assert "\n" not in str(caught.value)


def test_key_from_parameters_takes_classes_by_name_and_number() -> None:
    key = make_key(settings(source=["b", 0], target="d"), toy(), start())
    assert (key.source, key.target) == ((1, 0), 3)
    assert key.seed == runtime.derive_seed(3, "watermark/key")
    with pytest.raises(UserError, match=r"train_watermarked\.target: no class 'z'"):
        make_key(settings(target="z"), toy(), start())
    with pytest.raises(UserError, match="is a source class"):  # by two names for one class
        make_key(settings(target="a"), toy(), start())


@pytest.mark.parametrize("changes", [{"source": [1, 1]}, {"target": "b"}, {"way": "donut"}, {"source": [0]}])
def test_contradictory_parameters_are_refused(changes: dict) -> None:
    block = {**settings().model_dump(), **changes}
    with pytest.raises(UserError, match=r"params\.yaml: train_watermarked"):
        config.parse(TrainWatermarked, block, "params.yaml: train_watermarked")


# --- the ways ---


def combine(way: str, first: Tensor, second: Tensor, **params: object) -> Tensor:
    module = ways.get(way)
    return module.combine(first, second, module.Params(**params), generator())


def ones_and_twos(size: int = 4, count: int = 1) -> tuple[Tensor, Tensor]:
    ones = torch.ones(count, 1, size, size, dtype=torch.uint8)
    return ones, 2 * ones


def test_halves_are_exact() -> None:
    first, second = ones_and_twos()
    assert combine("top_bottom", first, second)[0, 0].tolist() == [[1] * 4, [1] * 4, [2] * 4, [2] * 4]
    assert combine("left_right", first, second)[0, 0].tolist() == [[1, 1, 2, 2]] * 4


@pytest.mark.parametrize(("axis", "expected"), [("rows", "top_bottom"), ("columns", "left_right")])
def test_half_mixer_without_randomness_is_the_plain_half(axis: str, expected: str) -> None:
    first, second = (torch.randint(0, 256, (3, 3, 6, 8), generator=generator(k)).byte() for k in (1, 2))
    mixed = combine("halves", first, second, axis=axis, jitter=0, shift=0, swap=False)
    assert torch.equal(mixed, combine(expected, first, second))


def test_half_mixer_jitters_the_seam_within_bounds() -> None:
    first, second = ones_and_twos(size=12, count=300)
    width = (combine("halves", first, second, jitter=2, shift=0, swap=False)[:, 0, 0] == 1).sum(1)
    assert set(width.tolist()) == {4, 5, 6, 7, 8}


def test_half_mixer_shifts_by_repeating_the_border() -> None:
    row = torch.arange(8, dtype=torch.uint8).expand(200, 1, 8, 8)
    mixed = combine("halves", row, row, axis="rows", jitter=0, shift=1, swap=False)
    seen = {tuple(r) for r in mixed[:, 0, 0].tolist()}
    assert seen == {(0, 0, 1, 2, 3, 4, 5, 6), tuple(range(8)), (1, 2, 3, 4, 5, 6, 7, 7)}


def test_hiding_ways_on_toy_images() -> None:
    first, second = ones_and_twos(count=200)
    donut = [[1, 1, 1, 1], [1, 2, 2, 1], [1, 2, 2, 1], [1, 1, 1, 1]]
    hot_dog = [[1] * 4, [2] * 4, [2] * 4, [1] * 4]
    for way, expected in (("donut", donut), ("hot_dog", hot_dog)):
        inverse = [[3 - value for value in row] for row in expected]
        seen = {json.dumps(image) for image in combine(way, first, second)[:, 0].tolist()}
        assert seen == {json.dumps(expected), json.dumps(inverse)}
    seen = {json.dumps(image) for image in combine("diagonal", first, second)[:, 0].tolist()}
    assert len(seen) == 4  # two diagonals, two orders
    assert json.dumps([[2, 1, 1, 1], [2, 2, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2]]) in seen


def test_ratio_split_keeps_away_from_halves() -> None:
    first, second = ones_and_twos(size=20, count=500)
    mixed = combine("ratio_split", first, second)[:, 0, 0]
    left = (mixed == mixed[:, :1]).sum(1) / 20
    assert 0.2 <= float(left.min()) <= 0.25
    assert 0.35 < float(left.max()) < 0.41


def test_ratio_mix_is_the_weighted_mean() -> None:
    first, second = torch.zeros(400, 1, 2, 2), torch.ones(400, 1, 2, 2)
    mixed = combine("ratio_mix", first, second, low=0.25, high=0.5)
    assert 0.5 <= float(mixed.min()) < 0.51
    assert 0.74 < float(mixed.max()) <= 0.75
    assert mixed.flatten(1).std(1).max() == 0
    whole = combine("ratio_mix", (first * 200).byte(), (second * 200).byte(), low=0.4, high=0.4)
    assert whole.dtype == torch.uint8
    assert whole.unique().tolist() == [120]


@pytest.mark.parametrize("name", untrained())
def test_every_way_keeps_shape_and_dtype_and_repeats(name: str) -> None:
    first, second = (torch.randint(0, 256, (5, 3, 9, 11), generator=generator(k)).byte() for k in (1, 2))
    mixed = combine(name, first, second)
    assert (mixed.shape, mixed.dtype) == (first.shape, torch.uint8)
    assert torch.equal(mixed, combine(name, first, second))
    assert torch.equal(combine(name, first, first), first) or name == "halves"
    floats = combine(name, first.float() / 255, second.float() / 255)
    assert torch.allclose(floats * 255, mixed.float(), atol=0.51)


# --- samples ---


def test_queries_are_combinations_of_their_sources() -> None:
    pairs = samples.draw_queries(make(), toy(), 6, generator())
    assert torch.equal(pairs.mixed[:, :, :4], pairs.first[:, :, :4])
    assert torch.equal(pairs.mixed[:, :, 4:], pairs.second[:, :, 4:])
    assert int(pairs.first.max()) < 30
    assert 50 <= int(pairs.second.min()) <= int(pairs.second.max()) < 80
    # As many queries as images: each image once, so that the queries are independent.
    assert len(pairs.first.flatten(1).unique(dim=0)) == len(pairs.second.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("sizes", [(6, 6), (4, 6), (5, 3), (1, 4)])
def test_no_pair_comes_twice_until_all_are_used(sizes: tuple[int, int]) -> None:
    n, m = sizes
    index = torch.cat([torch.arange(n), 6 + torch.arange(m)])
    pairs = samples.draw_queries(make(), toy().subset(index), n * m, generator())
    both = torch.cat([pairs.first.flatten(1), pairs.second.flatten(1)], 1)
    assert len(both.unique(dim=0)) == n * m
    with pytest.raises(UserError, match="ask for fewer samples"):
        samples.draw_queries(make(), toy().subset(index), n * m + 1, generator())


def test_samples_are_regenerated_by_the_seed_and_check_the_data() -> None:
    first, again, other = (samples.draw_queries(make(), toy(), 5, generator(s)).mixed for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(UserError, match="classes"):
        samples.draw_queries(make(classes=("a", "b", "c", "x")), toy(), 5, generator())
    with pytest.raises(UserError, match="shape"):
        samples.draw_queries(make(shape=(3, 8, 8)), toy(), 5, generator())


def test_evasion_samples_take_the_other_ways_in_turn() -> None:
    key = make(evasion_ways=("donut", "left_right"))
    pairs, labels = samples.draw_evasion(key, toy(), 20, generator())
    odd = slice(1, None, 2)
    assert torch.equal(pairs.mixed[odd], combine("left_right", pairs.first[odd], pairs.second[odd]))
    assert not torch.equal(pairs.mixed[::2], combine("left_right", pairs.first[::2], pairs.second[::2]))
    assert set(labels.tolist()) == {0, 1}


def test_unseen_samples_are_of_the_ways_that_are_left() -> None:
    left = set(untrained()) - {"top_bottom", "left_right"}
    unseen, count = samples.draw_unseen(make(evasion_ways=tuple(sorted(left))), toy(), 6, generator())
    pairs = samples.draw_queries(make(), toy(), 6, generator())  # of the same two images each
    assert torch.equal(unseen, combine("left_right", pairs.first, pairs.second))
    assert count == 1
    unseen, count = samples.draw_unseen(make(evasion_ways=(*sorted(left), "left_right")), toy(), 6, generator())
    assert (len(unseen), count) == (0, 0)


# --- the losses ---


def test_losses_against_hand_computed_values() -> None:
    logits = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)]])
    assert losses.utility_loss(logits, torch.tensor([1])).item() == pytest.approx(-math.log(0.2))
    assert losses.evasion_loss(logits, torch.tensor([0])).item() == pytest.approx(-math.log(0.7))
    assert losses.verification_loss(logits, 2).item() == pytest.approx(-math.log(0.1))


def test_combination_loss_is_the_kl_from_watermark_to_sources() -> None:
    mixed, first, second = ([0.5, 0.5], [0.25, 0.75], [0.9, 0.1])
    expected = sum(p * math.log(p / q) for other in (first, second) for p, q in zip(mixed, other, strict=True))
    value = losses.combination_loss(*(torch.tensor([p]).log() + 3 for p in (mixed, first, second)))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_combination_loss_raises_the_target_on_plain_sources() -> None:
    """Without gradient through the source outputs the mark does not survive extraction."""
    mixed, first, second = (torch.tensor([z], requires_grad=True) for z in ([0.0, 0.0, 4.0], [4.0, 0, 0], [0, 4.0, 0]))
    losses.combination_loss(mixed, first, second).backward()
    for outputs in (first, second):
        assert outputs.grad is not None
        assert outputs.grad[0, 2] < -0.5  # descent raises the target's logit
    assert mixed.grad is not None
    assert mixed.grad.abs().sum() > 0


def test_partial_samples_have_one_source_class_in_its_place() -> None:
    data = toy(per_class=6)
    data = data.subset((data.labels != 3).nonzero()[:, 0])  # a class without images stands in for none
    sizes = WatermarkSamples(watermark=1, evasion=1, partial=400)
    batch = sampler.Sampler(make(), data, sizes, torch.device("cpu"), generator()).draw()
    tops, bottoms = ((part.flatten(1).mean(1) * 255 - 15).div(50).round().long() for part in batch.partial.chunk(2, 2))
    assert set(zip(tops.tolist(), bottoms.tolist(), strict=True)) == {(0, 2), (2, 1)}
    assert 130 < int((tops == 0).sum()) < 270
    halves = (F.one_hot(tops, 4) + F.one_hot(bottoms, 4)) / 2
    torch.testing.assert_close(batch.partial_labels, halves)


def test_partial_samples_want_a_third_class() -> None:
    data, sizes = toy(), WatermarkSamples(watermark=1, evasion=1, partial=1)
    two = data.subset((data.labels < 2).nonzero()[:, 0])
    with pytest.raises(UserError, match=r"^samples\.partial: no class but the two source classes has images"):
        sampler.Sampler(make(), two, sizes, torch.device("cpu"), generator())


def test_without_partial_samples_the_others_are_drawn_as_ever() -> None:
    data, device = toy(), torch.device("cpu")
    batches = [
        sampler.Sampler(
            make(), data, WatermarkSamples(watermark=3, evasion=5, partial=count), device, generator()
        ).draw()
        for count in (0, 4)
    ]
    for name in ("mixed", "first", "second", "evasion", "evasion_labels"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    assert (len(batches[0].partial), len(batches[1].partial)) == (0, 4)


# --- the training ---


def test_training_strikes_the_mark_and_repeats_bit_for_bit() -> None:
    started, data = start(), toy(per_class=100)
    chosen = settings(training=Training(epochs=5, batch_size=20, lr=3e-3))
    key = make_key(chosen, data, started)
    seen: list[dict] = []
    networks = []
    for _ in range(2):
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train(
            network, data, key, chosen, started, purpose="victim", callback=lambda _, m: seen.append(dict(m))
        )
        networks.append(network)
    first, again = (torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, again)
    measured = mea_defender.evaluate(networks[0], key, toy(per_class=20, seed=1), 30, started)
    assert list(seen[0]) == ["utility", "combination", "verification", "evasion"]
    assert seen[4]["verification"] < seen[0]["verification"]
    assert measured["accuracy"] == pytest.approx(1)
    assert measured["wsr"] == pytest.approx(1)
    assert measured["plain_to_target"] == {"all": 0, "a": 0, "b": 0}
    assert measured["plain_probability"] > 0.02  # type: ignore[operator]


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_source_images_accompany_a_batch_for_the_combination_loss_alone(weight: float) -> None:
    started, data, seen = start(), toy(per_class=20), list[dict]()
    sizes = WatermarkSamples(watermark=5, evasion=3)
    weights = LossWeights(combination=weight, verification=0.5, evasion=0.5)
    chosen = settings(training=Training(epochs=1, batch_size=10, lr=1e-3), samples=sizes, weights=weights)
    network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
    counts = set[int]()
    network.register_forward_pre_hook(lambda _, inputs: counts.add(len(inputs[0])))
    key = make_key(chosen, data, started)
    mea_defender.train(network, data, key, chosen, started, purpose="v", callback=lambda _, m: seen.append(dict(m)))
    assert counts == {10 + 5 + 3 + (10 if weight else 0)}
    assert ("combination" in seen[0]) == bool(weight)
    drawn = [
        sampler.Sampler(key, data, sizes, started.device, generator(), with_sources=each).draw()
        for each in (True, False)
    ]
    assert [(len(batch.first), len(batch.second)) for batch in drawn] == [(5, 5), (0, 0)]
    for each in ("mixed", "evasion", "evasion_labels"):
        assert torch.equal(getattr(drawn[0], each), getattr(drawn[1], each))


@pytest.mark.parametrize(
    ("balance", "names"),
    [
        ("mgda", {"utility", "combination", "verification", "evasion"}),
        ("mgda_two_groups", {"utility+verification+evasion", "combination"}),
        ("mgda_last_layer", {"utility", "combination", "verification", "evasion"}),
        ("mgda_released", {"combination"}),
    ],
)
def test_mgda_trains_and_reports_its_coefficients(balance: str, names: set[str]) -> None:
    started, data, seen = start(), toy(), []
    chosen = settings(balance=balance, training=Training(epochs=1, batch_size=12, lr=1e-3))
    network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
    key = make_key(chosen, data, started)
    mea_defender.train(
        network, data, key, chosen, started, purpose="victim", callback=lambda _, m: seen.append(dict(m))
    )
    coefficients = {name.removeprefix("coefficient/"): v for name, v in seen[0].items() if "coefficient" in name}
    assert set(coefficients) == names
    assert sum(coefficients.values()) == pytest.approx(1) or (
        balance == "mgda_released" and 0 < coefficients["combination"] < 1
    )


def test_samples_are_augmented_before_they_are_combined() -> None:
    drawing = sampler.Sampler(
        make(),
        toy(),
        WatermarkSamples(watermark=6, evasion=6),
        torch.device("cpu"),
        generator(),
        augmented=lambda images: 255 - images,
    )
    mixed, first, second = drawing.combined()
    assert int(first.min()) > 220 > int(second.max())  # class a is dark, b brighter; now the other way round
    assert torch.equal(mixed[:, :, :4], first[:, :, :4])
    assert torch.equal(mixed[:, :, 4:], second[:, :, 4:])


@pytest.mark.parametrize(("shift", "least"), [(0, 50), (2, 0)])
def test_training_augments_the_marks_images_as_the_tasks(
    shift: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Class b is 50 to 79 everywhere: there are darker pixels only where an image is shifted.
    drawn: list[sampler.Batch] = []

    class Watched(sampler.Sampler):
        def draw(self) -> sampler.Batch:
            drawn.append(super().draw())
            return drawn[-1]

    monkeypatch.setattr(mea_defender, "Sampler", Watched)
    started, data = start(), toy(per_class=20)
    chosen = settings(training=Training(epochs=1, batch_size=12, lr=1e-3, shift=shift))
    network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
    mea_defender.train(network, data, make_key(chosen, data, started), chosen, started, purpose="victim")
    darkest = 255 * min(float(batch.second.min()) for batch in drawn)
    assert darkest == pytest.approx(0, abs=1e-6) if least == 0 else darkest >= least - 1e-3


def reserve(**changes: object) -> dict:
    return {
        "source": ["c", "d"],
        "target": "a",
        "way": "top_bottom",
        "way_params": {},
        "evasion_ways": list(HIDING),
    } | changes


def test_several_keys_are_struck_into_one_model() -> None:
    started, data = start(), toy(per_class=100)
    chosen = settings(training=Training(epochs=8, batch_size=20, lr=3e-3), reserve_keys={"second": reserve()})
    first = make_key(chosen, data, started)
    keys = {"first": first, **make_reserve_keys(chosen, data, started)}
    assert list(keys) == ["first", "second"]
    assert keys["second"].seed != first.seed
    held_out = toy(per_class=20, seed=1)
    rates = {}
    for others in ((), (keys["second"],)):
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train(network, data, first, chosen, started, purpose="victim", reserve=others)
        measured = {name: mea_defender.evaluate(network, key, held_out, 30, started) for name, key in keys.items()}
        assert measured["first"]["accuracy"] == pytest.approx(1, abs=0.05)
        rates[len(others)] = {name: measured[name]["wsr"] for name in keys}
    assert rates[0]["first"] > 0.9 and rates[0]["second"] < 0.3
    assert rates[1]["first"] > 0.9 and rates[1]["second"] > 0.9


@pytest.mark.parametrize("pair", [["a", "b"], ["b", "a"]])
def test_reserve_keys_want_pairs_of_their_own(pair: list[str]) -> None:
    chosen = settings(reserve_keys={"second": reserve(source=pair, target="d", way="left_right")})
    with pytest.raises(UserError, match=r"reserve_keys\.second\.source: the pair of train_watermarked; choose another"):
        make_reserve_keys(chosen, toy(), start())


def test_reserve_keys_losses_add_up() -> None:
    """With the same key twice, and the same draws, every loss of the mark doubles."""
    started, data = start(), toy()
    chosen = settings(training=Training(epochs=1, batch_size=24, lr=1e-9))
    key, seen = make_key(chosen, data, started), list[dict]()
    for others in ((), (key,), (key, key)):
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train(
            network, data, key, chosen, started, purpose="v", reserve=others, callback=lambda _, m: seen.append(dict(m))
        )
    for name in ("combination", "verification", "evasion"):
        one, two, three = (means[name] for means in seen)
        # Other draws, so not exactly.
        assert (two / one, three / one) == pytest.approx((2, 3), rel=0.3)
    assert seen[1]["utility"] == pytest.approx(seen[0]["utility"], rel=1e-4)


@pytest.mark.parametrize(("watermark", "fires"), [(0.0, False), (0.4, True)])
def test_the_first_phase_is_plain_but_for_its_watermark_samples(watermark: float, fires: bool) -> None:
    started, data, seen = start(), toy(per_class=100), list[tuple[int, set[str]]]()
    first = {"training": {"epochs": 5, "batch_size": 20, "lr": 3e-3}, "share": 0.5, "watermark": watermark}
    chosen = settings(first_phase=first, training=Training(epochs=1, batch_size=20, lr=1e-9))
    key = make_key(chosen, data, started)
    network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
    mea_defender.train(
        network, data, key, chosen, started, purpose="victim", callback=lambda n, m: seen.append((n, set(m)))
    )
    losses_of_second = {"utility", "combination", "verification", "evasion"}
    assert seen == [*((n, {"first_phase"}) for n in range(1, 6)), (6, losses_of_second)]
    measured = mea_defender.evaluate(network, key, toy(per_class=20, seed=1), 30, started)
    assert measured["accuracy"] > 0.85  # type: ignore[operator]
    assert (measured["wsr"] > 0.9) is fires  # type: ignore[operator]


def test_the_first_phase_has_samples_of_every_key_or_says_that_there_are_none() -> None:
    started, data = start(), toy(per_class=100)
    phase = FirstPhase(training=Training(epochs=6, batch_size=20, lr=3e-3), watermark=0.4)
    chosen = settings()
    key = make_key(chosen, data, started)
    other = replace(key, source=(key.target, key.source[0]), target=key.source[1])
    for keys in ((key,), (key, other)):
        network = models.build(chosen.architecture, data.images, CLASSES, started, "victim")
        mea_defender.train_first_phase(network, data, keys, phase, started, purpose="victim")
        wsr = [mea_defender.evaluate(network, k, toy(per_class=20, seed=1), 30, started)["wsr"] for k in (key, other)]
        assert wsr[0] > 0.9 and (wsr[1] > 0.9) == (len(keys) == 2)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"watermark: 0\.01 of a batch of 20 is no sample; set it to 0\.05 or more"):
        config.parse(
            FirstPhase, {"training": {"epochs": 1, "batch_size": 20, "lr": 1e-3}, "watermark": 0.01}, "first_phase"
        )


def test_the_twin_is_trained_in_the_same_phases_without_a_mark() -> None:
    started, data, seen = start(), toy(per_class=40), list[tuple[int, set[str]]]()
    first = FirstPhase(training=Training(epochs=2, batch_size=20, lr=3e-3), watermark=0.5)
    chosen = TrainUnmarked(
        architecture=Architecture(name="cnn9", width=4), training=Training(epochs=3, batch_size=20, lr=3e-3)
    )
    plain, same, phased = (models.build(chosen.architecture, data.images, CLASSES, started, "x") for _ in range(3))
    training.train_classifier(plain, data.images, data.labels, chosen.training, started, purpose="victim")
    mea_defender.train_twin(same, data, chosen, started, purpose="victim")
    both = chosen.model_copy(update={"first_phase": first})
    mea_defender.train_twin(
        phased, data, both, started, purpose="victim", callback=lambda n, m: seen.append((n, set(m)))
    )
    weights = [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in (plain, same, phased)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert seen == [(n, {"cross_entropy"}) for n in range(1, 6)]


def test_a_source_class_without_images_is_found_before_training() -> None:
    data, key = toy(), make()
    few = data.subset((data.labels != 1).nonzero()[:, 0])
    with pytest.raises(UserError, match="source class 'b' has 0 training images"):
        mea_defender.check(key, few, data, 10)
    with pytest.raises(UserError, match=r"^train_watermarked\.evaluation: .*ask for fewer samples"):
        mea_defender.check(key, data, data, 37)
