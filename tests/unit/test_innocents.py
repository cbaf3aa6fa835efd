"""Innocent models: the null models' stage on toy images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from hallmark import artifacts, models, training
from hallmark.config import Architecture
from hallmark.data.dataset import ImageDataset
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
        "simclr": {"projection": [8, 4]},
    },
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, cpu: Runtime) -> Path:
    """A folder with images and an unmarked model."""
    for name, seed in (("train", 0), ("queries", 1), ("test", 2)):
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


def test_an_encoders_head_is_a_linear_probe_on_its_features(root: Path, cpu: Runtime) -> None:
    """Its logits are those of the judge's kind of probe; its trunk was trained without labels."""
    innocents = Innocents(toy_images(40), toy_images(40, seed=1), models.load(root / "m", cpu), cpu)
    block = control_block(KINDS["encoder"], "p")
    images = innocents.images(block)
    assert torch.equal(images.images, toy_images(40).images)
    network = innocents.train(block, images, "p", training.no_callback, "p")
    features = models.features(network, images.images, cpu)
    probe = models.linear_probe(features, images.labels, 3)
    torch.testing.assert_close(models.logits(network, images.images, cpu), probe(features), atol=1e-4, rtol=0)
    shuffled = ImageDataset(images.images, images.labels.flip(0), images.ids, images.classes)
    other = innocents.train(block, shuffled, "p", training.no_callback, "p")
    assert torch.equal(models.features(other, images.images, cpu), features)


def test_an_encoder_has_no_augmentation_but_its_views() -> None:
    with pytest.raises(UserError, match=r"p\.training: flip, shift, mix"):
        control_block({**KINDS["encoder"], "training": {**TRAINING, "flip": True}}, "p")


def test_a_wrong_kind_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"train_nulls\.kinds\.plain\.kind: wants one of trained, stolen, encoder"):
        run(root, "nulls", kinds={"plain": {**KINDS["plain"], "kind": "borrowed"}})
    assert not (root / "nulls").exists()
