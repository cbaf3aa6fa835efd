"""The committed tables of the contests are what the present code makes of the committed cells."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from hallmark import artifacts, plots
from tests.unit.test_architecture import ROOT

RESTORING = (
    "contest.models=8",
    "contest.sanitizers={hallmark: [restore, drop, restore_add_reserve, drop_add_reserve]}",
    "contest.middle_only=[]",
    "contest.told={}",
)
"""As docs/results/README.md gives the command."""
STAND_IN = ("purify_data.dataelixir={rounds: {start: 150, rounds: 5, sampler: ddim, steps: 3, keep: 1}, tau: 1}",)
"""As contest/authors.yaml gives it."""


LOW_RATES = (
    "contest.attacks={trojannn: {attack: trojannn, label_mode: all_to_one, rates: [0.003, 0.005, 0.01]}}",
    "contest.middle_only=[]",
    "contest.told={}",
)
"""As docs/results/README.md gives the command."""


@pytest.mark.parametrize(
    ("contest", "params", "results"),
    [
        ("purification", ["params.yaml"], "contest"),
        ("purification", ["params.yaml", *RESTORING], "restoring"),
        (
            "purification",
            ["params.yaml", *LOW_RATES, "contest.sanitizers={hallmark: [restore], scan: [drop]}"],
            "contest_low_rates",
        ),
        (
            "purification",
            ["params.yaml", *LOW_RATES, "contest.sanitizers={hallmark: [restore]}", "prepare_data.reserve=2000"],
            "contest_low_rates/reserve_2000",
        ),
        ("purification", ["cifar10.yaml"], "contest_cifar10"),
        ("purification", ["authors.yaml"], "contest_authors"),
        ("purification", ["authors.yaml", *STAND_IN], "contest_authors/stand_in"),
        ("purification", ["long_tail.yaml"], "contest_long_tail"),
        ("purification", ["many_classes.yaml"], "contest_many_classes"),
        ("purification", ["params.yaml", "runtime.device=cuda", "contest.seeds=[1]"], "contest_h200"),
        ("removal", ["removal.yaml"], "removal"),
        ("watermark", ["watermark.yaml"], "watermark"),
        ("watermark", ["watermark_cifar10_full.yaml"], "watermark_cifar10_full"),
        ("ssl", ["ssl.yaml"], "ssl"),
    ],
)
def test_the_committed_tables_are_of_the_committed_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contest: str, params: list[str], results: str
) -> None:
    # Which pictures there are is looked at, and not what they show: drawing them takes longer than all else.
    monkeypatch.setattr(plots, "save", lambda figure, path: (plt.close(figure), artifacts.write_bytes(path, b"PNG")))
    plan = import_module(f"hallmark.contest.{contest}.plan").Plan.read(ROOT / "contest" / params[0], params[1:])
    there = ROOT / "docs" / "results" / results
    import_module(f"hallmark.contest.{contest}.table").write([there / "cells"], tmp_path, plan)
    for name in ("contest.csv", "contest.md"):
        assert (tmp_path / name).read_bytes() == (there / name).read_bytes(), f"write {there / name} again"
    assert {path.name for path in tmp_path.glob("*.png")} == {path.name for path in there.glob("*.png")}
