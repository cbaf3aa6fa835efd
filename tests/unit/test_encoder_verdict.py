"""The benchmark of verdicts on encoders, from training to the table, on digits."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from hallmark import artifacts
from hallmark.data.dataset import ImageDataset, fingerprints
from tests.unit.test_architecture import ROOT
from tests.unit.test_ssl_contest import NETWORK, PARAMS, TRAINING

SPLITS = {"source": "digits", "train": 300, "test": 450, "reserve": 20, "queries": 900}
CONTEST: dict[str, Any] = {
    **PARAMS["ssl_contest"],
    "architectures": {"cnn9": NETWORK},
    "schemes": {
        "mea_defender": PARAMS["ssl_contest"]["schemes"]["mea"],
        "none": {"scheme": "none", "like": "mea_defender"},
    },
    "thieves": {"regression": {}, "stolen_encoder_cropped": {"method": "stolen_encoder", "views": {"flip": False}}},
    "groups": {
        "main": {"title": "Main", "schemes": ["none"], "architectures": ["cnn9"], "thieves": ["regression"]},
    },
}
THIEVES = ("regression", "stolen_encoder_cropped")
NAMES = ["victim", *THIEVES, "unmarked", *(f"unmarked_{thief}" for thief in THIEVES)]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = import_module("encoder_verdict")
    kind = {"data": "purified", "architecture": NETWORK, "training": TRAINING}
    monkeypatch.setattr(module, "KINDS", {"one": kind, "two": {**kind, "data": "queries"}})
    monkeypatch.setattr(module, "NULL_IMAGES", 100)
    monkeypatch.setattr(module, "HELD_OUT", 400)
    return module


def words(tmp_path: Path, out: str, *more: str) -> list[str]:
    """Options of a small run; the rule is the pipeline's with few decoys."""
    rule = {**YAML(typ="safe").load(ROOT / "params.yaml")["verify_ownership"], "decoys": 2}
    files = {
        "params": {**PARAMS, "prepare_data": SPLITS, "ssl_contest": CONTEST},
        "rule": {"verify_ownership": rule},
    }
    for name, values in files.items():
        with (tmp_path / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(values, file)
    options = [f"--{name}={tmp_path / name}.yaml" for name in files]
    options += [f"--work={tmp_path / 'work'}", f"--raw={tmp_path}", f"--out={tmp_path / out}"]
    return ["--seeds=3", "--nulls=3", *options, *more]


def test_encoders_are_judged_by_a_probe_of_images_that_nobody_has(tmp_path: Path, benchmark: ModuleType) -> None:
    benchmark.main(words(tmp_path, "a.csv"))
    rows = artifacts.read_csv(tmp_path / "a.csv", benchmark.COLUMNS)
    assert [row["model"] for row in rows] == [*NAMES, "0000-one", "0001-two", "0002-one"]
    assert [row["role"] for row in rows] == ["suspect"] * 3 + ["control"] * 3 + ["null"] * 3
    for row in rows:
        # Three null models reach no level: nothing can be claimed of anybody.
        assert row["decision"] == "invalid" and "NO: hits: " in row["reasons"]
        assert 0 <= float(row["hits_value"]) <= 1 and float(row["inconsistent"]) == 0
        others = 2 if row["role"] == "null" else 3
        assert f"hits: {others} null models cannot reach" in row["reasons"]
        assert float(row["accuracy"]) > 0.3, row["model"]
    work = tmp_path / "work"
    judges = ImageDataset.load(work / "judge-seed3.safetensors")
    plan = benchmark.Plan.read(tmp_path / "params.yaml")
    _, known = benchmark.train_nulls(plan, 3, tmp_path, work)
    base = benchmark.contest.load(plan, 3, tmp_path, work)
    taken = set(known.tolist())
    for data in (base.train, base.pool, base.panel.test):
        taken |= set(fingerprints(data.images).tolist())
    assert len(judges) > 100 and not taken & set(fingerprints(judges.images).tolist())


def test_what_is_trained_is_kept_and_the_table_comes_out_the_same(
    tmp_path: Path, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark.main(words(tmp_path, "a.csv", "--development"))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("model.safetensors")}
    monkeypatch.setattr("hallmark.training.fit", None)
    benchmark.main(words(tmp_path, "b.csv", "--development"))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    kept = {path: when for path, when in made.items() if "nulls-seed" not in str(path)}
    assert len(kept) == 9 and all(path.stat().st_mtime_ns == when for path, when in kept.items())
