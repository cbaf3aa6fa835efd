"""The benchmark of the score statistic: its rows follow from the models that it was given."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from hallmark import models, training
from hallmark.config import Architecture, Training
from hallmark.contest.marks import Victim
from hallmark.contest.removal.plan import Plan
from hallmark.contest.watermark.run import Scene, load_base
from hallmark.verification.log_odds import lean, predictive_p
from hallmark.watermark.samples import draw_queries
from hallmark.watermark.schemes._keyed import KeyMark
from tests.unit.test_architecture import ROOT
from tests.unit.test_removal_contest import plan_file


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_rows_follow_from_the_models(tmp_path: Path) -> None:
    path = plan_file(tmp_path)
    benchmark, plan = import_module("score_statistic"), Plan.read(path)
    base = load_base(plan.marks, 0, tmp_path, tmp_path / "work")
    for name in ("nulls/0", "nulls/1", "nulls/2", "controls/a", "unmarked"):
        network = models.build(
            Architecture(name="cnn9", width=8), base.train.images, base.train.classes, base.runtime, name
        )
        how = Training(epochs=1, batch_size=50, lr=0.003)
        images, labels = base.train.images[:200], base.train.labels[:200]
        training.train_classifier(network, images, labels, how, base.runtime, purpose=name)
        models.save(network, tmp_path / "models" / name)
    options = argparse.Namespace(
        params=path, pipeline=tmp_path, seeds=[0], scheme="mea", removals=["tuned"], queries=30, keys=2, key_queries=20,
        raw=tmp_path, work=tmp_path / "work",
    )  # fmt: skip
    rows = benchmark.measure(options)
    assert not {name for row in rows for name in row} - set(benchmark.COLUMNS)

    def of(row: str, **wanted: object) -> list[dict[str, object]]:
        return [r for r in rows if r["row"] == row and all(r[name] == value for name, value in wanted.items())]

    # A value, its p and its area, anew.
    struck = Scene(plan.marks, Victim(0, "mea", ("all",)), base, tmp_path, tmp_path / "work").victim()
    assert isinstance(struck.mark, KeyMark)
    key, run = struck.mark.key, base.runtime
    pairs = draw_queries(key, base.test, 30, run.generator("benchmark/score queries"))

    def value(folder: Path) -> float:
        network = models.load(folder, run)
        found = lean(
            [models.probabilities(network, part, run) for part in (pairs.first, pairs.second)], key.target, key.source
        )
        assert found is not None
        return found

    (copy,) = (tmp_path / "work").glob("stolen-*")
    (found,) = of("suspect", kind="none", statistic="lean")
    own = value(copy / "model")
    nulls = [value(tmp_path / "models" / "nulls" / str(k)) for k in range(3)]
    others = [value(tmp_path / "models" / name) for name in ("controls/a", "unmarked")]
    assert found["value"] == pytest.approx(own, abs=1e-5)
    assert found["highest_innocent"] == pytest.approx(max(nulls + others), abs=1e-5)
    assert float(str(found["p"])) == pytest.approx(predictive_p(nulls, own).p, rel=0.01)
    (separation,) = of("separation", kind="none", statistic="lean")
    assert separation["auc"] == pytest.approx(sum(own > other for other in nulls + others) / 5)
    assert len(of("suspect", statistic="hits")) == 2

    # Two keys, three nulls and two others; with so few nulls no p is below a quarter.
    for statistic in benchmark.STATISTICS:
        alarms = of("false keys", statistic=statistic)
        assert {row["tests"] for row in alarms} == {6, 4}
        assert not any(row["alarms"] for row in alarms)
