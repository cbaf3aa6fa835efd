"""The two data stages from the command's parameters to their files, on digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hallmark import artifacts
from hallmark.data import ImageDataset
from hallmark.errors import UserError
from stages import poison_data, prepare_data

RUNTIME = {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 0}
PREPARE = {"source": "digits", "train": 500, "test": 300, "reserve": 100, "queries": 200}
POISON = {"attack": "badnets", "rate": 0.1, "target": "3"}


def write_params(root: Path, prepare: dict[str, object], poison: dict[str, object]) -> Path:
    path = root / "params.yaml"
    with open(path, "w", encoding="utf-8") as file:
        YAML().dump({"runtime": RUNTIME, "prepare_data": prepare, "poison_data": poison}, file)
    return path


def run(root: Path, *stages: str, **changes: object) -> tuple[Path, Path]:
    """Run ``stages`` (both if none is named) with changed parameters."""
    prepare = {**PREPARE, **{k: v for k, v in changes.items() if k in PREPARE}}
    poison = {**POISON, **{k: v for k, v in changes.items() if k in POISON}}
    params = f"--params={write_params(root, prepare, poison)}"
    clean, dirty = root / "clean", root / "poisoned"
    if "prepare" in stages or not stages:
        arguments = [f"--raw={root / 'raw'}", f"--out={clean}", f"--report={root / 'r1'}", params]
        prepare_data.main.main(arguments, standalone_mode=False)
    if "poison" in stages or not stages:
        arguments = [f"--data={clean}", f"--out={dirty}", f"--report={root / 'r2'}", params]
        poison_data.main.main(arguments, standalone_mode=False)
    return clean, dirty


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "params.yaml")
    return {path.relative_to(root).as_posix(): artifacts.sha256(path) for path in files}


def test_files_are_complete_and_the_same_bytes_again(tmp_path: Path) -> None:
    clean, dirty = run(tmp_path)
    first = hashes(tmp_path)
    run(tmp_path)
    assert hashes(tmp_path) == first
    assert {path.split("/", 1)[1] for path in first if path.startswith("clean/")} == {
        "train.safetensors",
        "test.safetensors",
        "reserve.safetensors",
        "queries.safetensors",
        "meta.json",
    }
    meta = artifacts.read_json(clean / "meta.json")
    assert meta["sizes"] == {"train": 500, "test": 300, "reserve": 100, "queries": 200}
    train, poisoned = (ImageDataset.load(folder / "train.safetensors") for folder in (clean, dirty))
    assert train.ids.tolist() == poisoned.ids.tolist()
    rows = artifacts.read_csv(dirty / "manifest.csv", ("id", "poisoned", "original_label"))
    assert [int(row["id"]) for row in rows] == train.ids.tolist()
    assert sum(int(row["poisoned"]) for row in rows) == 50
    assert artifacts.read_json(dirty / "attack.json")["target"] == 3


def test_without_an_attack_no_triggered_images_stay_behind(tmp_path: Path) -> None:
    clean, dirty = run(tmp_path)
    assert (dirty / "triggered_test.safetensors").is_file()
    run(tmp_path, "poison", attack="none")
    assert sorted(path.name for path in dirty.iterdir()) == ["attack.json", "manifest.csv", "train.safetensors"]
    assert artifacts.md5(dirty / "train.safetensors") == artifacts.md5(clean / "train.safetensors")


def test_bad_input_leaves_earlier_outputs(tmp_path: Path) -> None:
    run(tmp_path)
    before = hashes(tmp_path)
    for stage, name, value in (("prepare", "train", 5000), ("poison", "attack", "badnet"), ("poison", "target", "x")):
        with pytest.raises(UserError, match=f"{stage}_data.{name}"):
            run(tmp_path, stage, **{name: value})
        assert hashes(tmp_path) == before
