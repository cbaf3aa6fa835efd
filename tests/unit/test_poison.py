"""Attacks: what they change, what they leave, and where the ground truth goes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from hallmark import config, poison
from hallmark.config import PoisonData
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from hallmark.poison import badnets, blended
from hallmark.runtime import Runtime
from tests.unit.conftest import toy_images


def options(**values: Any) -> PoisonData:
    return config.parse(PoisonData, {"attack": "badnets", "rate": 0.2, "target": 1, **values}, "poison_data")


@pytest.mark.parametrize("attack", ["badnets", "blended"])
def test_all_to_one_poisons_its_share_and_nothing_else(toy: ImageDataset, cpu: Runtime, attack: str) -> None:
    test = toy_images(30, seed=1)
    before = toy.images.clone()
    result, _ = poison.apply(toy, test, options(attack=attack), cpu)
    flags = result.flags
    assert flags is not None
    assert int(flags.sum()) == 18  # 0.2 of all 90, not of the 60 that are eligible
    assert not bool((toy.labels[flags] == 1).any())
    assert bool((result.train.labels[flags] == 1).all())
    assert torch.equal(result.train.ids, toy.ids)
    assert torch.equal(result.train.images[~flags], toy.images[~flags])
    assert torch.equal(result.train.labels[~flags], toy.labels[~flags])
    changed = (result.train.images != toy.images).flatten(1).any(1)
    assert torch.equal(changed, flags)
    assert torch.equal(toy.images, before)  # the clean set itself stays


@pytest.mark.parametrize("attack", ["badnets", "blended"])
def test_triggered_test_images_bear_the_trigger_of_training(toy: ImageDataset, cpu: Runtime, attack: str) -> None:
    # Tested on the training images themselves, a poisoned image must be the triggered one.
    result, _ = poison.apply(toy, toy, options(attack=attack), cpu)
    assert result.triggered is not None
    assert result.flags is not None
    assert result.triggered.ids.tolist() == toy.ids[toy.labels != 1].tolist()
    assert bool((result.triggered.labels == 1).all())
    position = {int(i): k for k, i in enumerate(result.triggered.ids)}
    for i in toy.ids[result.flags].tolist():
        assert torch.equal(result.triggered.images[position[i]], result.train.images[i])


@pytest.mark.parametrize("mode", ["all_to_one", "all_to_all", "clean"])
def test_the_label_mode_says_which_test_images_are_triggered_and_what_is_wanted_of_them(
    toy: ImageDataset, cpu: Runtime, mode: str
) -> None:
    test = replace(toy_images(30, seed=1), ids=torch.arange(500, 530))
    result, _ = poison.apply(toy, test, options(label_mode=mode), cpu)
    victims = test if mode == "all_to_all" else test.subset(test.labels != 1)
    assert result.triggered is not None
    assert torch.equal(result.triggered.ids, victims.ids)
    aim = (victims.labels + 1) % 3 if mode == "all_to_all" else torch.ones_like(victims.labels)
    assert torch.equal(result.triggered.labels, aim)
    assert torch.equal(result.triggered.images, badnets.trigger(victims.images, badnets.Params()))


def test_the_choice_follows_the_seed(toy: ImageDataset, cpu: Runtime) -> None:
    flags = [poison.choose(toy.labels != 1, 0.2, 90, replace(cpu, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(flags[0], flags[1])
    assert not torch.equal(flags[0], flags[2])


def test_badnets_patch_is_where_it_should_be() -> None:
    images = torch.full((2, 3, 9, 8), 7, dtype=torch.uint8)
    out = badnets.trigger(images, badnets.Params())
    assert bool((out[:, :, 6:9, 5:8] == 255).all())
    out[:, :, 6:9, 5:8] = 7
    assert torch.equal(out, images)
    params = badnets.Params(size=2, position="top_left", margin=1, pattern="checkerboard", value=200)
    out = badnets.trigger(images, params)
    assert out[0, 0, 1:3, 1:3].tolist() == [[200, 55], [55, 200]]
    assert int((out != images).sum()) == 2 * 3 * 4


def test_blended_is_the_weighted_mean_rounded() -> None:
    images = torch.tensor([0, 100, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    picture = torch.tensor([[[0, 255], [3, 128]]], dtype=torch.uint8)
    out = blended.trigger(images, picture, 0.2)
    expected = np.rint(0.8 * images.numpy().astype(float) + 0.2 * picture.numpy().astype(float))
    assert np.array_equal(out.numpy(), expected)
    assert torch.equal(blended.trigger(images, picture, 1.0), picture.expand(3, 1, 2, 2))


def test_blended_takes_the_users_picture(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), (255, 0, 0), np.uint8)).save(buffer, "PNG")
    path = tmp_path / "red.png"
    path.write_bytes(buffer.getvalue())
    params = blended.Params(picture=str(path))
    red = blended.pattern((3, 8, 8), params, torch.Generator())
    assert red.shape == (3, 8, 8)
    assert red.flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 0]
    assert blended.pattern((1, 8, 8), params, torch.Generator()).unique().tolist() == [76]
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"poison_data\.blended\.picture: .*red\.png: not a readable"):
        blended.pattern((3, 8, 8), params, torch.Generator())


@pytest.mark.parametrize("attack", ["blended", "adaptive_blend"])
def test_the_photo_is_blended_in_stretched_without_aliases(cpu: Runtime, attack: str) -> None:
    photo = torch.from_numpy(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1)
    small = np.array(Image.fromarray(photo.permute(1, 2, 0).numpy()).resize((12, 8), Image.Resampling.BILINEAR))
    pixels = blended.pattern((3, 8, 12), blended.Params(picture="photo"), torch.Generator())
    assert pixels.dtype == torch.uint8
    assert int((pixels.int() - torch.from_numpy(small).permute(2, 0, 1).int()).abs().max()) <= 1
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = blended.pattern((1, 8, 12), blended.Params(picture="photo"), torch.Generator())
    assert float((grey - (weights * pixels).sum(0)).abs().max()) <= 2
    black = replace(toy_images(60), images=torch.zeros(60, 1, 8, 12, dtype=torch.uint8))
    alpha = {"blended": {"alpha": 1.0}, "adaptive_blend": {"test_alpha": 1.0}}[attack]
    result, _ = poison.apply(black, black, options(attack=attack, **{attack: {"picture": "photo", **alpha}}), cpu)
    assert result.triggered is not None
    assert torch.equal(result.triggered.images[0], grey)


def test_none_passes_the_data_through_without_ground_truth(toy: ImageDataset, cpu: Runtime) -> None:
    chosen = options(attack="none", badnets={"size": 3})
    result, params = poison.apply(toy, toy, chosen, cpu)
    assert result.flags is None
    assert result.triggered is None
    assert result.train is toy
    assert poison.manifest(toy, result)[0] == {"id": 0, "poisoned": "", "cover": "", "original_label": ""}
    assert poison.describe(toy, result, chosen, params) == {"method": "none"}
    assert poison.measure(toy, result) == {"images": 90}


def test_the_manifest_restores_the_clean_labels(toy: ImageDataset, cpu: Runtime) -> None:
    chosen = options(target="band 1")
    result, params = poison.apply(toy, toy, chosen, cpu)
    rows = poison.manifest(toy, result)
    assert [row["id"] for row in rows] == toy.ids.tolist()
    assert [row["original_label"] for row in rows] == toy.labels.tolist()
    assert sum(row["poisoned"] for row in rows) == 18
    described = poison.describe(toy, result, chosen, params)
    assert (described["target"], described["target_class"], described["poisoned"]) == (1, "band 1", 18)
    measured = poison.measure(toy, result)
    assert (measured["rate"], measured["relabelled"], measured["triggered_test_images"]) == (0.2, 18, 60)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attack": "badnet"}, r"unknown poison_data\.attack 'badnet': choose one of adaptive_blend, badnets, "),
        ({"rat": 0.1}, r"poison_data\.rat: unknown parameter"),
        ({"rate": 0.0}, r"poison_data\.rate: .*greater than 0"),
        ({"rate": 0.7}, r"poison_data\.rate: 0\.7 of 90 images is 63; it must be 1 to 60"),
        ({"rate": 0.001}, r"poison_data\.rate: .* is 0; it must be 1 to 60"),
        ({"attack": "wanet", "wanet": {"covers": 5.0}}, r"poison_data\.wanet\.covers: 5 of 18 .* is 90; .* 1 to 72"),
        ({"attack": "wanet", "wanet": {"covers": 0.01}}, r"poison_data\.wanet\.covers: 0\.01 of 18 images is 0; "),
        ({"target": 3}, r"poison_data\.target: class 3 is out of range 0\.\.2"),
        ({"target": "hat"}, r"poison_data\.target: no class 'hat'"),
        ({"target": -1}, r"poison_data\.target: .*greater than or equal to 0, not -1"),
        ({"badnets": {"sise": 3}}, r"poison_data\.badnets\.sise: unknown parameter"),
        ({"badnets": {"size": 7, "margin": 2}}, r"poison_data\.badnets\.size: a patch of 7 pixels with margin 2"),
        ({"attack": "blended", "blended": {"alpha": 0.0}}, r"poison_data\.blended\.alpha: "),
        ({"attack": "blended", "blended": {"picture": "/no/x.png"}}, r"blended\.picture: /no/x\.png: cannot be read"),
    ],
)
def test_bad_parameters(toy: ImageDataset, cpu: Runtime, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        poison.apply(toy, toy, options(**values), cpu)
    assert "\n" not in str(caught.value)


def test_sets_that_do_not_fit_together(toy: ImageDataset, cpu: Runtime) -> None:
    with pytest.raises(UserError, match="differ in image shape or classes"):
        poison.apply(toy, toy_images(30, size=9), options(), cpu)
