"""Ways to combine beyond the halves: closed forms, families, the autoencoder and its place in the key."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hallmark import config, runtime
from hallmark.config import RuntimeConfig, TrainWatermarked
from hallmark.data.dataset import ImageDataset, to_float
from hallmark.errors import UserError
from hallmark.ownership import keyfile
from hallmark.ownership.commitment import Opening
from hallmark.verification import questions
from hallmark.watermark import samples
from hallmark.watermark.key import Key, make_key
from hallmark.watermark.ways import _coder, autoencoder, must_be_trained, others, untrained, ways
from tests.unit.conftest import toy_images
from tests.unit.ownership_toys import RULE
from tests.unit.test_architecture import PARAMS, ROOT

SMALL: dict[str, Any] = {"width": 8, "latent": 4, "epochs": 6, "batch_size": 10}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def combine(way: str, first: Tensor, second: Tensor, **params: Any) -> Tensor:
    module = ways.get(way)
    return module.combine(first, second, module.Params(**params), generator())


def constants(height: int, width: int, count: int = 1, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Images of ones and of twos: what is 1 in a combination is the first image's."""
    ones = torch.ones(count, channels, height, width, dtype=torch.uint8)
    return ones, 2 * ones


def random_pair(count: int = 4, channels: int = 3, height: int = 9, width: int = 11) -> tuple[Tensor, Tensor]:
    shape = (count, channels, height, width)
    first, second = (torch.randint(0, 256, shape, generator=generator(k)).byte() for k in (1, 2))
    return first, second


def settings(**changes: Any) -> TrainWatermarked:
    block = {**PARAMS["train_watermarked"], "source": [0, 1], "target": 2, **changes}
    return config.parse(TrainWatermarked, block, "params.yaml: train_watermarked")


@pytest.fixture(scope="module")
def started() -> runtime.Runtime:
    return runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=3))


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    return toy_images(120, size=10)


@pytest.fixture(scope="module")
def key(started: runtime.Runtime, data: ImageDataset) -> Key:
    """Whose way is a trained autoencoder."""
    return make_key(settings(way="autoencoder", way_params=SMALL), data, started)


def trained(key: Key) -> autoencoder.Params:
    assert isinstance(key.params, autoencoder.Params)
    return key.params


# --- stripes ---


def test_stripes_are_as_wide_as_said_and_in_the_order_of_the_pattern() -> None:
    first, second = constants(4, 10)
    assert combine("stripes", first, second)[0, 0].tolist() == [[1, 1, 2, 2, 1, 1, 2, 2, 1, 1]] * 4
    assert combine("stripes", first, second, pattern=0)[0, 0, 0].tolist() == [1] * 6 + [2] * 4
    assert combine("stripes", first, second, pattern=9)[0, 0, 0].tolist() == [2] * 4 + [1] * 6
    rows = combine("stripes", *constants(7, 3), axis="rows", count=3, share=1, pattern=1)
    assert rows[0, 0, :, 0].tolist() == [2, 2, 2, 1, 1, 2, 2]  # pixel p of 7 is in stripe 3p // 7


def test_each_pattern_is_another_choice_and_all_pairs_share_it() -> None:
    first, second = constants(5, 5, count=8)
    seen = set()
    for pattern in range(10):
        mixed = combine("stripes", first, second, pattern=pattern)
        assert torch.equal(mixed, mixed[:1].expand_as(mixed))
        assert int((mixed[0] == 1).sum()) == 15  # three of five columns of five
        seen.add(tuple(mixed[0, 0, 0].tolist()))
    assert len(seen) == 10


def test_random_stripes_draw_every_choice_equally_often() -> None:
    first, second = constants(5, 5, count=2000, channels=3)
    mixed = combine("stripes", first, second, order="random")
    assert (mixed == 1).flatten(1).sum(1).unique().tolist() == [45]
    choices, counts = mixed[:, 0, 0].unique(dim=0, return_counts=True)
    assert len(choices) == 10
    assert 150 < int(counts.min()) <= int(counts.max()) < 250


def test_one_stripe_of_two_is_the_plain_half() -> None:
    first, second = random_pair()
    assert torch.equal(
        combine("stripes", first[..., :10], second[..., :10], count=2, share=1, pattern=0),
        combine("left_right", first[..., :10], second[..., :10]),
    )


# --- boxes ---


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [
        ("top_left", slice(0, 3), slice(0, 2)),
        ("top_right", slice(0, 3), slice(6, 8)),
        ("bottom_left", slice(3, 6), slice(0, 2)),
        ("bottom_right", slice(3, 6), slice(6, 8)),
    ],
)
def test_a_corner_is_the_second_images(corner: str, rows: slice, columns: slice) -> None:
    first, second = random_pair(height=6, width=8)
    expected = first.clone()
    expected[:, :, rows, columns] = second[:, :, rows, columns]
    assert torch.equal(combine("corner", first, second, corner=corner, height=0.5, width=0.25), expected)


@pytest.mark.parametrize(("share", "side"), [(0.01, 1), (0.29, 3), (0.5, 5), (0.99, 9)])
def test_a_corner_has_a_pixel_and_leaves_one(share: float, side: int) -> None:
    mixed = combine("corner", *constants(10, 10), height=share, width=share)
    assert int((mixed == 2).sum()) == side**2


def test_random_boxes_are_boxes_of_the_sizes_allowed_at_all_places() -> None:
    mixed = combine("random_box", *constants(10, 20, count=3000), low=0.2, high=0.4)[:, 0] == 2
    rows, columns = mixed.any(2), mixed.any(1)
    assert torch.equal(mixed, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).unique().tolist() == [2, 3, 4]
    assert columns.sum(1).unique().tolist() == [4, 5, 6, 7, 8]
    for inside in (rows, columns):  # in one piece, and every pixel is reached
        assert ((inside[:, 1:] != inside[:, :-1]).sum(1) <= 2).all()
        assert inside.any(0).all()
    starts = rows[rows.sum(1) == 2].float().argmax(1).bincount()
    assert len(starts) == 9
    assert float(starts.min()) > 0.5 * float(starts.float().mean())


def test_random_boxes_leave_a_pixel() -> None:
    mixed = combine("random_box", *constants(4, 4, count=500), low=0.95, high=0.99)
    assert (mixed == 2).flatten(1).sum(1).unique().tolist() == [9]
    tiny = combine("random_box", *constants(4, 4, count=50), low=0.01, high=0.01)
    assert (tiny == 2).flatten(1).sum(1).unique().tolist() == [1]


def test_pixel_merging_is_ratio_mix_with_a_fixed_ratio() -> None:
    first, second = random_pair()
    mixed = combine("ratio_mix", first, second, low=0.5, high=0.5)
    assert torch.equal(mixed, ((first.float() + second.float()) / 2).round().byte())


@pytest.mark.parametrize(
    ("way", "params", "message"),
    [
        ("stripes", {"share": 5}, r"share \(5\) leaves the second image none of 5 stripes"),
        ("stripes", {"pattern": 10}, r"pattern \(10\) is out of range 0\.\.9"),
        ("stripes", {"count": 17}, r"count: .*less than or equal to 16, not 17"),
        ("stripes", {"axis": "diagonals"}, r"axis: .*'rows' or 'columns', not 'diagonals'"),
        ("corner", {"corner": "left"}, "corner: .*'top_left'"),
        ("corner", {"height": 1.0}, r"height: .*less than 1, not 1\.0"),
        ("random_box", {"low": 0.7}, r"low \(0\.7\) exceeds high \(0\.6\); swap them"),
        ("random_box", {"low": 0.0}, "low: .*greater than 0"),
        ("autoencoder", {"alpha": 1.0}, "alpha: .*less than 1"),
        ("autoencoder", {"latent": 17}, "latent: .*16, not 17"),
        ("autoencoder", {"lr": float("inf")}, "lr: .*finite"),
    ],
)
def test_parameters_out_of_range_are_one_clear_line(way: str, params: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"^way_params[.:] ?{message}") as caught:
        config.parse(ways.get(way).Params, params, "way_params")
    assert "\n" not in str(caught.value)


def test_stripes_must_fit_into_the_image() -> None:
    fields = {"evasion_ways": ("donut",), "source": (0, 1), "target": 2, "seed": 5, "classes": ("a", "b", "c")}
    with pytest.raises(UserError, match="key: stripes: 16 stripes do not fit into 8 columns; lower count"):
        Key("mea_defender", "stripes", {"count": 16, "pattern": 0}, shape=(1, 9, 8), **fields)  # type: ignore[arg-type]


# --- families ---


def layouts(name: str, **params: Any) -> set[bytes]:
    """Pictures of a pair of constant images that a way makes in many draws, whichever of them comes first."""
    mixed = combine(name, *constants(8, 8, count=3000), **params)[:, 0] == 1
    return {bytes(image.flatten().tolist()) for picture in mixed for image in (picture, ~picture)}


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in untrained() if name != "ratio_mix"),  # of a mean no pixel is either image's
    ("halves", {"axis": "rows", "jitter": 1, "shift": 0}),
    ("halves", {"jitter": 1, "shift": 0}),
    ("ratio_split", {"low": 0.4, "high": 0.6}),
    ("donut", {"side": 0.3}),
    ("hot_dog", {"band": 0.2}),
    ("corner", {"corner": "top_left", "height": 0.25}),
    ("random_box", {"low": 0.1, "high": 0.9}),
    ("stripes", {"count": 2, "share": 1, "pattern": 0}),
    ("stripes", {"axis": "rows", "count": 2, "share": 1, "pattern": 1}),
    ("stripes", {"axis": "rows", "count": 4, "share": 2, "pattern": 2}),
    ("stripes", {"axis": "rows", "order": "random", "count": 3, "share": 1}),
]


def test_ways_that_can_make_the_same_picture_are_of_one_family() -> None:
    made = [(name, params, layouts(name, **params)) for name, params in VARIANTS]
    for (name, params, one), (other, more, two) in itertools.combinations(made, 2):
        if one & two:
            first, second = (ways.get(n).family(ways.get(n).Params(**p)) for n, p in ((name, params), (other, more)))
            assert first & second, f"{name} {params} and {other} {more} make the same picture"


@pytest.mark.parametrize(
    ("way", "params", "missing"),
    [
        ("top_bottom", {}, {"top_bottom"}),
        ("left_right", {}, {"left_right", "halves", "ratio_split"}),
        ("halves", {"axis": "rows"}, {"halves", "top_bottom"}),
        ("halves", {}, {"left_right", "halves", "ratio_split"}),
        ("donut", {}, {"donut", "random_box"}),
        ("corner", {}, {"corner", "random_box"}),
        ("random_box", {}, {"corner", "donut", "random_box"}),
        ("stripes", {}, {"stripes"}),
        ("stripes", {"axis": "rows", "count": 4, "share": 2, "pattern": 2}, {"stripes", "hot_dog"}),
        ("stripes", {"pattern": 0}, {"stripes", "left_right", "halves", "ratio_split"}),
        ("ratio_mix", {}, {"ratio_mix"}),
        ("autoencoder", {}, {"ratio_mix"}),
    ],
)
def test_others_are_all_of_another_family(way: str, params: dict, missing: set[str]) -> None:
    found = others(way, ways.get(way).Params(**params))
    assert set(untrained()) - set(found) == missing
    assert "autoencoder" not in found


def test_evasion_ways_may_be_the_word_others(started: runtime.Runtime, data: ImageDataset) -> None:
    made = make_key(settings(way="left_right", evasion_ways="others"), data, started)
    assert made.evasion_ways == others("left_right", made.params)
    assert made.to_json()["evasion_ways"] == list(made.evasion_ways)  # the list, not the word
    # Wrong: another word, a number, a list of numbers, none.
    for value, message in (("other", "'other'"), (5, "not 5"), ([5], r"\[5\]"), ([], "is empty")):
        with pytest.raises(UserError, match=rf"evasion_ways: .*{message}") as caught:
            settings(evasion_ways=value)
        assert str(caught.value).startswith("params.yaml: train_watermarked")


def test_a_way_that_must_be_trained_makes_no_evasion_samples(started: runtime.Runtime, data: ImageDataset) -> None:
    with pytest.raises(UserError, match="evasion_ways contains 'autoencoder', which must be trained") as caught:
        make_key(settings(evasion_ways=["donut", "autoencoder"]), data, started)
    assert "\n" not in str(caught.value)


# --- the autoencoder ---


def test_an_autoencoder_is_trained_for_the_key_and_repeats(
    key: Key, started: runtime.Runtime, data: ImageDataset
) -> None:
    again = make_key(settings(way="autoencoder", way_params=SMALL), data, started)
    assert again.commitment() == key.commitment()
    assert len(trained(key).weights) == 4 * -(-2 * _coder.count(1, 8, 4) // 3)
    assert key.evasion_ways == others("autoencoder", key.params)
    other_seed = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=4))
    other = make_key(settings(way="autoencoder", way_params=SMALL), data, other_seed)
    assert trained(other).weights != trained(key).weights


def test_it_reconstructs_better_than_the_mean_image(key: Key, data: ImageDataset) -> None:
    """By half: the noise of toy images, a sixth of their variance, is hardly compressed."""
    images = toy_images(30, size=10, seed=1).images
    again = autoencoder.combine(images, images, trained(key), generator())
    mean = to_float(data.images).mean(0).expand(30, -1, -1, -1)
    error = float(F.mse_loss(to_float(again), to_float(images)))
    assert error < 0.5 * float(F.mse_loss(mean, to_float(images)))


@pytest.mark.parametrize("channels", [1, 3])
def test_its_pictures_have_the_shape_and_type_and_do_not_depend_on_the_batch(
    channels: int, started: runtime.Runtime
) -> None:
    params = autoencoder.prepare(autoencoder.Params(**SMALL), toy_images(40, channels=channels, size=9), started)
    first, second = random_pair(count=70, channels=channels)
    mixed = autoencoder.combine(first, second, params, generator())
    assert (mixed.shape, mixed.dtype) == (first.shape, torch.uint8)
    for part in (slice(0, 1), slice(3, 20), slice(60, 70), slice(0, 0)):
        assert torch.equal(autoencoder.combine(first[part], second[part], params, generator()), mixed[part])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(autoencoder.combine(first, second, params, generator()), mixed)
    floats = autoencoder.combine(first.float() / 255, second.float() / 255, params, generator())
    assert floats.dtype == torch.float32
    assert torch.allclose(floats * 255, mixed.float(), atol=0.51)
    assert autoencoder.prepare(params, toy_images(4, channels=channels), started) == params  # trained already


def test_it_computes_without_rounding_errors(key: Key) -> None:
    """Sums in another order, here of permuted channels, give the same bits; in single precision they do not."""
    vector = _coder.numbers(trained(key).weights, 10_000)
    layers = list(_coder.unpack(vector, 1, 8, 4, torch.device("cpu")))
    order = torch.randperm(32, generator=generator())
    x = _coder.snap(torch.rand(3, 32, 4, 4, generator=generator()).double() * 50)
    (weight, bias) = layers[1]
    straight, permuted = F.conv2d(x, weight, bias), F.conv2d(x[:, order], weight[:, order], bias)
    assert torch.equal(straight, permuted)
    assert not torch.equal(F.conv2d(x.float(), weight.float()), F.conv2d(x.float()[:, order], weight.float()[:, order]))


def test_sums_of_the_largest_numbers_fit_into_float64() -> None:
    fan_in = max(inputs * kernel**2 for _, inputs, kernel in _coder.shapes(3, 16, 16))
    largest = (fan_in + 1) * _coder.LARGEST_WEIGHT * float(_coder.snap(torch.tensor(1e9)))
    assert largest * 2**34 <= 2**53


def test_it_is_the_network_that_was_trained(key: Key, data: ImageDataset) -> None:
    """Exact arithmetic changes a picture by what its grid is, no more."""
    params = trained(key)
    network = _coder.Coder(1, params.width, params.latent)
    torch.nn.utils.vector_to_parameters(
        torch.from_numpy(_coder.numbers(params.weights, 10_000).astype(np.float32)), network.parameters()
    )
    x = to_float(data.images[:20])
    with torch.no_grad():
        expected = network(_coder.padded(x))[:, :, :10, :10].clamp(0, 1)
    assert torch.allclose(autoencoder.combine(x, x, params, generator()), expected, atol=0.01)
    assert _coder.pack(network) == params.weights


def test_alpha_moves_the_picture_from_one_image_to_the_other(key: Key, data: ImageDataset) -> None:
    first, second = to_float(data.images[:1]), to_float(data.images[1:2])
    distances = []
    for alpha in (0.01, 0.3, 0.7, 0.99):
        params = autoencoder.Params(**{**trained(key).model_dump(), "alpha": alpha})
        distances.append(float(F.mse_loss(autoencoder.combine(first, second, params, generator()), first)))
    assert distances == sorted(distances, reverse=True)


def test_queries_are_made_again_from_the_keys_file_alone(key: Key, data: ImageDataset, tmp_path: Path) -> None:
    key.save(tmp_path / "key.json")
    again = Key.load(tmp_path / "key.json")
    assert again == key
    assert again.commitment() == key.commitment()
    one, other = (samples.draw_queries(k, data, 30, generator()).mixed for k in (key, again))
    assert torch.equal(one, other)


def test_it_is_kept_encrypted_and_bound_by_a_commitment(
    key: Key, data: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keyfile.save(key, tmp_path / "key.age")
    assert keyfile.load(tmp_path / "key.age") == key
    opening = Opening.make(key, RULE, "0" * 64)
    again = Opening.read(opening.canonical(), "opening").watermark_key()
    assert again == key
    other = replace(key, way_params={**key.way_params, "weights": changed(key, 0, 0.125)})
    bound = replace(opening, key={**opening.key, "way_params": dict(other.way_params)})
    assert bound.hash() != opening.hash()


def changed(key: Key, position: int, value: float) -> str:
    vector = np.array(_coder.numbers(trained(key).weights, 10_000))
    vector[position] = value
    return base64.b64encode(vector.tobytes()).decode()


def test_the_commitment_binds_every_weight(key: Key) -> None:
    weights = [changed(key, position, 0.125) for position in (0, 7, -1)]
    commitments = {replace(key, way_params={**key.way_params, "weights": w}).commitment() for w in weights}
    assert len(commitments | {key.commitment()}) == 4


def blobs(key: Key) -> dict[str, tuple[str, str]]:
    good = trained(key).weights
    return {
        "missing": ("", "is not trained"),
        "shorter": (good[:-8], "numbers where width 8 and latent 4 want"),
        "colour": (base64.b64encode(bytes(2 * _coder.count(3, 8, 4))).decode(), "images of 1 channels want"),
        "large": (good + "A" * 4000, "too many"),
        "huge": ("A" * (1 << 20), "too many"),
        "odd": (base64.b64encode(bytes(2 * _coder.count(1, 8, 4) - 1)).decode(), "no whole number of fp16"),
        "not base64": ("!" + good[1:], "not base64"),
        "not ascii": ("\u00e9" + good[1:], "not base64"),
        "no padding": (good.rstrip("=")[:-1], "not base64"),
        "nan": (changed(key, 3, float("nan")), "not finite"),
        "infinite": (changed(key, 3, float("inf")), "not finite"),
        "too large": (changed(key, 3, -9.0), "larger than 8"),
        "pickle": (base64.b64encode(b"\x80\x04\x95" * 20).decode(), "numbers where"),
    }


BLOBS = ["missing", "shorter", "colour", "large", "huge", "odd", "not base64", "not ascii", "no padding", "nan"]
BLOBS += ["infinite", "too large", "pickle"]


@pytest.mark.parametrize("kind", BLOBS)
def test_tampered_weights_are_refused_in_one_line(key: Key, kind: str, tmp_path: Path) -> None:
    blob, message = blobs(key)[kind]
    path = tmp_path / "key.json"
    stored = key.to_json()
    path.write_text(json.dumps({**stored, "way_params": {**stored["way_params"], "weights": blob}}))
    with pytest.raises(UserError, match=rf"key\.json: key: autoencoder: .*{message}") as caught:
        Key.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_untrained_it_combines_nothing() -> None:
    assert [name for name in ways.names() if must_be_trained(name)] == ["autoencoder"]
    with pytest.raises(UserError, match="is not trained"):
        combine("autoencoder", *random_pair())


def test_no_verdict_rests_on_weights_of_the_owners_choice(key: Key, data: ImageDataset) -> None:
    with pytest.raises(
        UserError, match="innocent models can be made to fire: no verdict rests on such a key"
    ) as caught:
        questions.draw(key, data, queries=4, decoys=0, judge_seed=0)
    assert "\n" not in str(caught.value)
    plain = replace(key, way="donut", way_params={}, evasion_ways=("diagonal",))
    assert len(questions.draw(plain, data, queries=4, decoys=0, judge_seed=0).part("watermark")) == 4


def test_the_classes_are_checked_before_anything_is_trained(started: runtime.Runtime, data: ImageDataset) -> None:
    long = {**SMALL, "epochs": 1000}
    with pytest.raises(UserError, match="is a source class"):  # by two names for one class
        make_key(settings(way="autoencoder", way_params=long, target=data.classes[0]), data, started)


# --- classes by name, and what is written about the ways ---


def test_classes_by_name_in_a_set_of_a_hundred(started: runtime.Runtime) -> None:
    names = [f"class_{k}" for k in range(100)]
    names[4], names[30], names[55], names[9] = "beaver", "dolphin", "otter", "sweet_pepper"
    labels = torch.arange(100).repeat_interleave(3)
    images = torch.randint(0, 256, (300, 3, 8, 8), generator=generator(), dtype=torch.uint8)
    animals = ImageDataset(images, labels, torch.arange(300), tuple(names))
    made = make_key(settings(source=["beaver", "dolphin"], target="otter"), animals, started)
    assert (made.source, made.target) == ((4, 30), 55)
    pairs = samples.draw_queries(made, animals, 9, generator())
    assert torch.equal(pairs.mixed[:, :, :4], pairs.first[:, :, :4])
    with pytest.raises(UserError, match=r"train_watermarked\.source: no class 'seal'; the 100 classes are class_0"):
        make_key(settings(source=["beaver", "seal"], target="otter"), animals, started)


def test_what_is_written_about_the_ways_names_them_all() -> None:
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    listed = re.search(r"\n  way: [a-z_]+ +# ([a-z_ |#\n]+?)\n  way_params", params)
    assert listed
    assert sorted(re.findall(r"[a-z_]+", listed[1])) == untrained()
    page = (ROOT / "docs" / "watermark.md").read_text(encoding="utf-8")
    measured, described = re.split(r"^## .*ways?\b.*$", page, maxsplit=1, flags=re.M | re.I)
    assert sorted(re.findall(r"^\| `([a-z_]+)` \|", described, re.M)) == ways.names()
    assert set(re.findall(r"^\| `([a-z_]+)` \|", measured, re.M)) <= set(ways.names())


def test_the_benchmark_measures_and_draws_every_way(
    data: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for part in ("train", "test"):
        data.save(tmp_path / f"{part}.safetensors")
    command = ["ways.py", "--set", str(tmp_path), *data.classes[:2], "--params", str(ROOT / "params.yaml")]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path / "ways.csv"), "--images", str(tmp_path)])
    import_module("ways").main()
    (row,) = csv.DictReader((tmp_path / "ways.csv").read_text(encoding="utf-8").splitlines())
    assert float(row["error"]) < float(row["error_of_mean_image"])
    assert float(row["blend_to_pixel_mean"]) < float(row["pixel_mean"])
    assert (tmp_path / "ways.png").stat().st_size > 1000
    assert (tmp_path / "autoencoder.png").is_file()
