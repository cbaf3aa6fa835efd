"""benchmarks/pipeline.py: dvc.yaml's stages without DVC."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from hallmark import config
from hallmark.config import PrepareData, TrainWatermarked
from hallmark.extraction import attack_params
from hallmark.innocents import control_block
from hallmark.removal import removal_params
from tests.unit.test_architecture import ROOT


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("pipeline")


def read(name: str) -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


def test_every_stage_of_dvc_yaml_becomes_tasks_without_placeholders(pipeline: ModuleType) -> None:
    params = read("params.yaml")
    found = {t.name: t for t in pipeline.tasks(read("dvc.yaml"), params, 0, ["purify_data"])}
    copies = {f"extract_attack@{name}" for name in params["extract_attack"]["attacks"]}
    removals = {f"remove_watermark@{name}" for name in params["remove_watermark"]["removals"]}
    controls = {f"train_controls@{name}" for name in params["train_controls"]["controls"]}
    single = read("dvc.yaml")["stages"].keys() - {"extract_attack", "remove_watermark", "train_controls", "purify_data"}
    assert found.keys() == single | copies | removals | controls
    assert not any("$" in text for t in found.values() for text in (t.command, *t.deps, *t.outs))
    removed = found["remove_watermark@tuned_on_labels"]
    assert "models/extracted/distillation" in removed.deps
    assert "--removal tuned_on_labels " in removed.command


def test_tasks_wait_for_what_they_read_and_fall_with_it(
    pipeline: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(task: object, folder: Path, threads: int) -> subprocess.Popen[bytes]:
        name = task.name  # pyright: ignore[reportAttributeAccessIssue]
        started.append(name)
        return subprocess.Popen([sys.executable, "-c", f"import sys; sys.exit({int(name == 'broken')})"])

    monkeypatch.setattr(pipeline, "start", start)
    every = [
        pipeline.Task(0, "last", "", ("models/a",), ()),
        pipeline.Task(0, "first", "", ("src/x.py",), ("models/a/one", "models/b")),
        pipeline.Task(0, "inside", "", ("models/b/file.json",), ()),
        pipeline.Task(0, "broken", "", (), ("models/c",)),
        pipeline.Task(0, "never", "", ("models/c",), ()),
        pipeline.Task(1, "other", "", ("models/c",), ()),
    ]
    seconds, failed = pipeline.run(every, tmp_path, 2, 1)
    assert {row["stage"] for row in seconds} == {"first", "last", "inside", "other"}
    assert {t.name for t in failed} == {"broken", "never"}
    assert started.index("first") < min(started.index("last"), started.index("inside"))


@pytest.mark.parametrize(("changes", "network"), [("cifar10", "vgg_like"), ("youtube_faces", "vggface")])
def test_the_changes_for_other_sets_are_valid_parameters(pipeline: ModuleType, changes: str, network: str) -> None:
    params = pipeline.changed(read("params.yaml"), ROOT / f"benchmarks/{changes}.yaml", ["prepare_data.path=images"])
    path = Path("params.yaml")
    assert config.section(params, "prepare_data", PrepareData, path).path == "images"
    assert config.section(params, "train_watermarked", TrainWatermarked, path).architecture.name == network
    for name, block in params["extract_attack"]["attacks"].items():
        attack_params(block, name)
    for name, block in {**params["train_controls"]["controls"], **params["train_nulls"]["kinds"]}.items():
        control_block(block, name)
    for name, block in params["remove_watermark"]["removals"].items():
        removal_params({key: value for key, value in block.items() if key != "model"}, name)
