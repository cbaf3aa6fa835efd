"""Innocent models: the null models' stage on toy images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from hallmark import artifacts, models, suspects, training
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset, fingerprints
from hallmark.errors import UserError
from hallmark.innocents import Innocents, control_block
from hallmark.runtime import Runtime
from stages import train_nulls
from tests.unit.conftest import toy_images

TRAINING = {"epochs": 1, "batch_size": 10, "lr": 0.001}
SMALL = {"name": "cnn9", "width": 4}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "trained", "data": "queries", "architecture": SMALL, "training": TRAINING},
    "stolen": {
        "kind": "stolen",
        "attack": {"method": "distillation", "budget": 20, "temperature": 7.0, "architecture": SMALL,
                   "training": TRAINING},
    },
    "encoder": {
        "kind": "encoder", "data": "purified", "architecture": SMALL, "training": TRAINING,
        "simclr": {"projection": [8, 4]}, "probe": {"images": "judge.safetensors"},
    },
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and an unmarked model, in which the program runs."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("train", 0), ("queries", 1), ("test", 2), ("judge", 3)):
        toy_images(40, seed=seed).save(tmp_path / f"{name}.safetensors")
    images = toy_images(40)
    models.save(
        models.build(Architecture.model_validate(SMALL), images.images, images.classes, cpu, "x"), tmp_path / "m"
    )
    return tmp_path


def run(root: Path, out: str, **changes: Any) -> Path:
    section = {"models": 3, "share": 0.5, "kinds": KINDS, **changes}
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        runtime = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0}
        YAML().dump({"runtime": runtime, "train_nulls": section}, file)
    files = {"data": "train.safetensors", "queries": "queries.safetensors", "test": "test.safetensors", "unmarked": "m"}
    options = [f"--{name}={root / file}" for name, file in files.items()]
    options += [f"--out={root / out}", f"--report={root / 'report'}", f"--params={root / 'params.yaml'}"]
    train_nulls.main(options, standalone_mode=False)
    return root / out


def test_null_models_take_the_kinds_in_turn_and_are_all_different(root: Path) -> None:
    out = run(root, "nulls")
    assert sorted(path.name for path in out.iterdir()) == ["0000-plain", "0001-stolen", "0002-encoder"]
    assert len({artifacts.sha256(path / "model.safetensors") for path in out.iterdir()}) == 3
    assert artifacts.read_json(root / "report/metrics.json")["models"] == 3
    assert artifacts.md5(run(root, "again")) == artifacts.md5(out)


def test_an_encoder_answers_behind_the_judges_probe_as_a_suspect_does(root: Path, cpu: Runtime) -> None:
    """What the null models say and what an encoder suspect says differ by the encoder alone."""
    innocents = Innocents(toy_images(40), toy_images(40, seed=1), None, cpu)
    block = control_block(KINDS["encoder"], "p")
    images = innocents.images(block)
    assert torch.equal(images.images, toy_images(40).images)
    network = innocents.train(block, images, "p", training.no_callback, "p")
    models.save(network, root / "encoder")
    fresh = toy_images(60, seed=9)
    inner = {"kind": "safetensors", "path": "encoder"}
    values = {"kind": "encoder", "encoder": inner, "images": "judge.safetensors"}
    suspect = suspects.build("s", values, fresh.classes, fresh.shape, cpu).scores(fresh.images)
    said = models.logits(network, fresh.images, cpu).softmax(1)
    assert suspect.probabilities is not None
    torch.testing.assert_close(said, suspect.probabilities, atol=1e-4, rtol=0)


def test_an_encoder_sees_no_label_of_its_images(root: Path, cpu: Runtime) -> None:
    innocents = Innocents(toy_images(40), toy_images(40, seed=1), None, cpu)
    block = control_block(KINDS["encoder"], "p")
    images = innocents.images(block)
    shuffled = ImageDataset(images.images, images.labels.flip(0), images.ids, images.classes)
    one, two = (innocents.train(block, data, "p", training.no_callback, "p") for data in (images, shuffled))
    fresh = toy_images(60, seed=9).images
    assert torch.equal(models.logits(one, fresh, cpu), models.logits(two, fresh, cpu))


def test_an_encoder_is_not_trained_on_images_of_the_probe(root: Path) -> None:
    mixed = toy_images(40, seed=3)
    images = toy_images(40)
    both = ImageDataset(
        torch.cat([images.images, mixed.images[:7]]),
        torch.cat([images.labels, mixed.labels[:7]]),
        torch.arange(47),
        images.classes,
    )
    both.save(root / "train.safetensors")
    message = r"train_nulls\.kinds\.encoder\.probe\.images: 7 of the encoder's 47 training images"
    with pytest.raises(UserError, match=message):
        run(root, "nulls", share=1.0, kinds={"encoder": KINDS["encoder"]})
    assert not (root / "nulls").exists()


def test_without_an_unmarked_model_none_is_stolen(cpu: Runtime) -> None:
    innocents = Innocents(toy_images(40), toy_images(40, seed=1), None, cpu)
    block = control_block(KINDS["stolen"], "p")
    with pytest.raises(UserError, match="p: there is no unmarked model to steal from"):
        innocents.train(block, innocents.images(block), "p", training.no_callback, "p")


def test_every_part_is_drawn_for_itself(cpu: Runtime) -> None:
    innocents = Innocents(toy_images(40), toy_images(40, seed=1), None, cpu)
    block = control_block(KINDS["plain"], "p")
    one, again, other = (innocents.part(block, 0.5, purpose) for purpose in ("null 1", "null 1", "null 2"))
    assert len(one) == 20 and torch.equal(one.images, again.images) and not torch.equal(one.images, other.images)
    assert not set(fingerprints(one.images).tolist()) - set(fingerprints(toy_images(40, seed=1).images).tolist())


def test_an_encoder_has_no_augmentation_but_its_views() -> None:
    with pytest.raises(UserError, match=r"p\.training: flip, shift, mix"):
        control_block({**KINDS["encoder"], "training": {**TRAINING, "flip": True}}, "p")


def test_a_wrong_kind_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"train_nulls\.kinds\.plain\.kind: wants one of trained, stolen, encoder"):
        run(root, "nulls", kinds={"plain": {**KINDS["plain"], "kind": "borrowed"}})
    assert not (root / "nulls").exists()
