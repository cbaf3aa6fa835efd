"""The simulation of the decoy rule decides as the verdict does, and bears out what is said of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hallmark.verification.decision import beats
from tests.unit.test_architecture import ROOT


@pytest.fixture
def decoy_rule(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("decoy_rule")


@pytest.mark.parametrize(("hits", "fired"), [(400, 20), (400, 33), (0, 0), (1000, 100), (450, 40)])
def test_its_test_is_the_verdicts(decoy_rule: ModuleType, hits: int, fired: int) -> None:
    key, decoy = np.arange(1000) < hits, np.arange(100) < fired
    assert float(decoy_rule.exceeds(np.int64(hits), np.int64(fired), 100)) == pytest.approx(
        beats(key, decoy, paired=False), rel=1e-9
    )


def test_the_strongest_of_each_kind_is_spared_and_no_other(decoy_rule: ModuleType) -> None:
    quiet, loud = [2, 0, 1, 3, 2], [2, 90, 1, 0, 3]
    kinds = {"none": [quiet, quiet], "one each": [loud, loud], "two of a kind": [[90, 90, 0, 0, 0], quiet]}
    hits = np.full(len(kinds), 500)
    found = decoy_rule.passes(hits, np.array(list(kinds.values())), 0.01)
    assert {name: passed.tolist() for name, passed in found.items()} == {
        "average": [True, True, True],
        "all": [True, False, False],
        "rule": [True, True, False],
    }


def test_what_is_said_of_it(decoy_rule: ModuleType, tmp_path: Path) -> None:
    *mixed, worst = decoy_rule.main(["--trials", "2000", "--out", str(tmp_path / "found.csv")])
    for row in mixed:
        assert row["all"] < row["rule"] < row["average"]
    assert 0 < worst["rule"] <= 0.02 + 3 * 0.02**0.5 / 2000**0.5
    assert worst["average"] > 0.9
    assert (tmp_path / "found.csv").is_file()
