"""benchmarks/encoder_balance.py on the digits."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from hallmark import artifacts
from hallmark.contest.ssl.run import Base
from tests.unit.test_architecture import ROOT
from tests.unit.test_ssl_contest import NETWORK, PARAMS


def test_each_balance_has_a_row_of_its_own_and_no_test_image_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = import_module("encoder_balance")
    seen: list[set[int]] = []
    steal = benchmark.contest.steal

    def watched(plan: object, base: Base, *rest: object) -> object:
        parts = (base.train, base.pool, base.panel.user, base.panel.judge, base.panel.test)
        seen[:] = [set(part.ids.tolist()) for part in parts]
        return steal(plan, base, *rest)

    monkeypatch.setattr(benchmark.contest, "steal", watched)
    section = PARAMS["ssl_contest"]
    schemes = {"mea_defender": section["schemes"]["mea"]}
    group = {"title": "t", "schemes": ["mea_defender"], "architectures": ["cnn9"], "thieves": ["regression"]}
    changed = {"architectures": {"cnn9": NETWORK}, "schemes": schemes, "thieves": {"regression": {}}}
    params = {**PARAMS, "ssl_contest": {**section, **changed, "groups": {"main": group}}}
    (tmp_path / "ssl.yaml").write_text(json.dumps(params), encoding="utf-8")
    small = ["prepare_data.train=400", "prepare_data.queries=900", "ssl_contest.training.epochs=1"]
    small += ["ssl_contest.thief.budget=200", "ssl_contest.thief.training.epochs=1"]
    words = [f"--params={tmp_path / 'ssl.yaml'}", f"--raw={tmp_path}", f"--work={tmp_path / 'work'}", "--held-out=400"]
    benchmark.main([*words, "--seeds=7", f"--out={tmp_path / 'out.csv'}", *(f"--set={each}" for each in small)])
    rows = artifacts.read_csv(tmp_path / "out.csv", benchmark.COLUMNS)
    assert [(row["seed"], row["balance"]) for row in rows] == [("7", b) for b in ("fixed", "mgda", "mgda_two_groups")]
    assert len({row["copy_features_accuracy"] for row in rows}) > 1
    for row in rows:
        assert all(0 <= float(row[f"{model}_linear_wsr"]) <= 1 for model in ("victim", "copy"))
        assert float(row["train_seconds"]) > 0
    assert [len(part) for part in seen] == [400, 250, 150, 100, 400]
    assert len(set.union(*seen)) == sum(map(len, seen))
