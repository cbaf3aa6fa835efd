"""Innocent models: the null models' stage on toy images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hallmark import artifacts, models
from hallmark.config import Architecture
from hallmark.errors import UserError
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
    assert sorted(path.name for path in out.iterdir()) == ["0000-plain", "0001-stolen", "0002-plain"]
    assert len({artifacts.sha256(path / "model.safetensors") for path in out.iterdir()}) == 3
    assert artifacts.read_json(root / "report/metrics.json")["models"] == 3
    assert artifacts.md5(run(root, "again")) == artifacts.md5(out)


def test_a_wrong_kind_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"train_nulls\.kinds\.plain\.kind: wants one of trained, stolen"):
        run(root, "nulls", kinds={"plain": {**KINDS["plain"], "kind": "borrowed"}})
    assert not (root / "nulls").exists()
