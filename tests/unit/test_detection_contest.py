"""The contest of detectors: its plan, what is measured again, its tables, its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hallmark import artifacts, models
from hallmark.contest.detection import cells, run, table
from hallmark.contest.detection.command import main
from hallmark.contest.detection.plan import Model, Plan
from hallmark.errors import UserError
from tests.unit.test_architecture import ROOT

PARAMS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 9},
    "prepare_data": {"source": "digits", "train": 200, "test": 100, "reserve": 60, "queries": 50},
    "detection_contest": {
        "false_alarm": 0.4,
        "architecture": {"name": "cnn9", "width": 8},
        "training": {"epochs": 2, "batch_size": 20, "lr": 0.003},
        "kinds": {
            "clean": {"role": "clean", "models": 2},
            "badnets": {"role": "backdoored", "models": 1, "poison": {"attack": "badnets", "rate": 0.2}},
        },
        "detectors": {"neural_cleanse": {"steps": 4, "batch_size": 4}},
    },
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "plan.yaml"
    path.write_text(json.dumps({**PARAMS, "detection_contest": {**PARAMS["detection_contest"], **changes}}))
    return path


def test_the_plan_of_the_repository_is_sound() -> None:
    plan = Plan.read(ROOT / "contest/detection.yaml")
    assert len(plan.models(["clean"])) == 20
    assert all(len(plan.models([kind])) == 10 for kind in ("badnets", "blended", "wanet", "watermarked"))
    hashes = {plan.model_hash(each) for each in plan.models()}
    assert len(hashes) == len(plan.models())
    first = plan.models()[0]
    assert {plan.cell_hash(first, name) for name in plan.contest.detectors}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"role": "backdoored", "models": 1}, "a backdoored model wants its own block"),
        ({"role": "clean", "models": 1, "poison": {"attack": "badnets", "rate": 0.1}}, "a clean model wants its own"),
        # A method's own mistakes.
        (
            {"role": "backdoored", "models": 1, "poison": {"attack": "badnetz", "rate": 0.1}},
            r"kinds\.x\.poison: unknown",
        ),
        (
            {"role": "backdoored", "models": 1, "poison": {"attack": "badnets", "rate": 0.1, "params": {"sise": 2}}},
            r"kinds\.x\.poison\.params\.sise",
        ),
        ({"role": "marked", "models": 1, "mark": {"scheme": "adi", "params": {"sise": 2}}}, r"mark\.params\.sise"),
    ],
)
def test_a_kind_is_what_its_role_says(kind: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Plan.read(write(tmp_path, kinds={"x": kind}))


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no kind 'dirty'; there are clean, badnets"):
        Plan.read(write(tmp_path)).models(["dirty"])


def test_the_contest_is_measured_tabled_and_resumed(tmp_path: Path) -> None:
    plan, out, work = Plan.read(write(tmp_path)), tmp_path / "out", tmp_path / "work"
    base = run.load_base(plan, 5, tmp_path)
    trusted = tmp_path / "trusted.safetensors"
    base.reserve.save(trusted)
    for k in range(2):
        network = models.build(plan.contest.architecture, base.train.images, base.train.classes, base.runtime, f"{k}")
        models.save(network, tmp_path / "nulls" / f"{k}")
    words = ["--params", tmp_path / "plan.yaml", "--out", out, "--work", work, "--raw", tmp_path]
    words += ["--nulls", tmp_path / "nulls", "--trusted", trusted]
    first = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    assert "3 models, 6 cells, 0 measured already" in first.output
    rows = artifacts.read_csv(out / "models.csv", table.MODEL_COLUMNS)
    assert [(row["kind"], row["seed"]) for row in rows] == [("clean", "0"), ("clean", "1"), ("badnets", "0")]
    assert {row["target"] for row in rows if row["kind"] == "badnets"} == {"0"}
    assert all(float(row["p_value"]) in (0.333333, 0.666667, 1.0) for row in rows)
    assert [row["flagged"] for row in rows] == [str(int(float(row["p_value"]) <= 0.4)) for row in rows]
    classes = artifacts.read_csv(out / "classes.csv", table.CLASS_COLUMNS)
    assert len(classes) == 30
    assert sum(int(row["is_target"]) for row in classes) == 1
    assert {"contest.md", "neural_cleanse.png", "roc_neural_cleanse.png"} <= {path.name for path in out.iterdir()}
    before = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
    again = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    assert "6 cells, 6 measured already" in again.output
    assert {path.name: path.read_bytes() for path in (out / "cells").iterdir()} == before
    changed = Plan.read(write(tmp_path, detectors={"neural_cleanse": {"steps": 5, "batch_size": 4}}))
    assert cells.finished(changed, Model("clean", 0), out) == 1  # the model stays, what is said of it does not
