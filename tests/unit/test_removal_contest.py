"""The contest of removals: its cells, what is measured again, its rows, its tables, its command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hallmark import artifacts, training
from hallmark.contest.marks import Victim
from hallmark.contest.removal import pictures, run, table
from hallmark.contest.removal.command import main
from hallmark.contest.removal.command_table import main as table_main
from hallmark.contest.removal.plan import COLUMNS, NONE, Plan, Target
from hallmark.contest.watermark.run import Scene, load_base
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.suspects import memory
from hallmark.suspects.adapt import Classes
from hallmark.verification import answers, nulls, questions
from hallmark.watermark.schemes import rates
from hallmark.watermark.schemes._keyed import KeyMark
from tests.unit.test_architecture import ROOT
from tests.unit.test_watermark_contest import MEA, NETWORK, TRAINING

HOW = {"epochs": 1, "batch_size": 50, "lr": 0.002}
PARAMS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 9},
    "prepare_data": {"source": "digits", "train": 500, "test": 400, "reserve": 50, "queries": 400},
    "watermark_contest": {
        "seeds": [0, 1],
        "queries": 40,
        "victim": {"architecture": NETWORK, "training": TRAINING},
        "thief": {
            "method": "distillation",
            "budget": 300,
            "temperature": 4.0,
            "architecture": NETWORK,
            "training": HOW,
        },
        "schemes": {"mea": {"scheme": "mea_defender", "params": MEA}, "adi": {"scheme": "adi", "params": {"size": 20}}},
        "thieves": {"all": {}},
        "groups": {"main": {"title": "Main", "schemes": ["mea", "adi"], "thieves": ["all"]}},
    },
    "removal_contest": {
        "rule": {
            "queries": 1000,
            "decoys": 2,
            "judge_seed": 1,
            "confidence": 0.95,
            "alpha": 0.05,
            "keys": 1,
            "statistics": ["hits"],
            "min_accuracy_share": 0.8,
            "max_inconsistent": 0.02,
            "suspects": {},
        },
        "victims": True,
        "nulls": {
            "models": 3,
            "share": 0.5,
            "kinds": {"plain": {"kind": "trained", "data": "queries", "architecture": NETWORK, "training": HOW}},
        },
        "removals": {
            "pruned": {"method": "pruning", "amount": 0.5},
            "tuned": {"method": "fine_tuning", "labels": "ground_truth", "images": 100, "training": HOW},
            "greedy": {"method": "fine_tuning", "labels": "ground_truth", "images": 5000, "training": HOW},
        },
        "paper": {"mea/all/pruned": 70.1},
        "paper_note": "Elsewhere.",
    },
}


def plan_file(folder: Path, **contest: Any) -> Path:
    """The parameters above with other values in section ``removal_contest``."""
    path = folder / "removal.yaml"
    values = {**PARAMS, "removal_contest": {**PARAMS["removal_contest"], **contest}}
    path.write_text(json.dumps(values), encoding="utf-8")  # YAML as well, in this order
    return path


def call(path: Path, out: Path, *options: str) -> str:
    """Run the command; what it prints."""
    fixed = ["--params", path, "--out", out, "--work", path.parent / "work", *options]
    result = CliRunner().invoke(main, [str(word) for word in fixed], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "contest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- the plan ---


def test_a_plan_has_every_target_with_every_removal(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    names = [(t.victim.seed, t.victim.name, t.name) for t in plan.targets()]
    assert names == [(s, m, t) for s in (0, 1) for m in ("mea", "adi") for t in ("all", "victim")]
    assert {t.removals for t in plan.targets()} == {("none", "pruned", "tuned", "greedy")}
    hashes = {plan.cell_hash(t, r) for t in plan.targets() for r in t.removals}
    assert len(hashes) == 32
    (one,) = plan.targets([5], ["adi"], ["victim"], ["tuned"])
    assert one == Target(Victim(5, "adi", ()), (NONE, "tuned"))
    assert [t.name for t in Plan.read(plan_file(tmp_path, victims=False)).targets([0])] == ["all", "all"]
    with pytest.raises(UserError, match="has no target 'x'"):
        plan.targets(targets=["x"])
    with pytest.raises(UserError, match="has no removal 'x'"):
        plan.targets(removals=["x"])
    with pytest.raises(UserError, match="has no scheme 'x'"):
        plan.targets(schemes=["x"])


@pytest.mark.parametrize(
    ("contest", "words"),
    [
        ({"removals": {"none": {"method": "pruning", "amount": 0.5}}}, "'none' is the target as it is"),
        ({"paper": {"mea/all/x": 1.0}}, "'mea/all/x' is no cell"),
        ({"removals": {}}, r"removal_contest\.removals"),
        ({"removals": {"cut": {"method": "pruning", "amount": 0.5, "amont": 0.5}}}, r"removals\.cut\.amont"),
        ({"removals": {"cut": {"method": "prunning"}}}, "unknown removal 'prunning'"),
    ],
)
def test_a_bad_plan_is_one_line(tmp_path: Path, contest: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Plan.read(plan_file(tmp_path, **contest))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ("removal_contest.removals.pruned.amount=0.6", {"all/pruned", "victim/pruned"}),
        ("watermark_contest.thief.budget=200", {"all/none", "all/pruned", "all/tuned", "all/greedy"}),
        ("removal_contest.nulls.models=4", {f"{t}/{r}" for t in ("all", "victim") for r in
                                            ("none", "pruned", "tuned", "greedy")}),
        ("removal_contest.paper_note=other", set()),
    ],
)  # fmt: skip
def test_a_cell_is_known_by_the_parameters_that_concern_it(tmp_path: Path, change: str, touched: set[str]) -> None:
    path = plan_file(tmp_path)
    before, after = Plan.read(path), Plan.read(path, [change])
    found = {f"{t.name}/{r}" for t in before.targets([0], ["mea"]) for r in t.removals
             if before.cell_hash(t, r) != after.cell_hash(t, r)}  # fmt: skip
    assert found == touched


def test_the_repositorys_plan_is_valid_to_its_last_parameter() -> None:
    plan = Plan.read(ROOT / "contest" / "removal.yaml")
    budget = plan.marks.prepare_data.queries
    for name in plan.contest.removals:
        params = plan.removal_params(name)[1]
        assert getattr(params, "images", 1) == 1 or params.method == "transfer" or params.images <= budget  # pyright: ignore[reportAttributeAccessIssue]
    assert len(plan.targets([0])) == 13


# --- the work ---


def court_says(row: dict[str, str], play: run.Play, cast: run.Cast, made: Network) -> None:
    """The verdicts are the pipeline's, on the pipeline's questions: its own functions, put together otherwise."""
    assert isinstance(cast.struck.mark, KeyMark)
    innocents, key = play.innocents(), cast.struck.mark.key
    base, runtime = play.scene.base, play.runtime
    assert len(innocents) == int(row["nulls"]) == 4  # three, and the twin
    asked = questions.draw(key, base.test, queries=1000, decoys=2, judge_seed=2)
    same = Classes.match(base.test.classes, None, {})
    ours, *theirs = (
        answers.read(asked, memory.suspect(n, runtime, same, base.test.shape).scores(asked.images))
        for n in (made, *innocents)
    )
    hits = [int(given.hits.sum()) for given in theirs]
    assert float(row["null_wsr"]) == max(hits) / 1000
    assert float(row["p_hits"]) == pytest.approx(nulls.predictive_p(hits, 1000, int(ours.hits.sum())).p, abs=1e-6)
    leans = [given.lean.value for given in theirs if given.lean]
    assert ours.lean is not None and len(leans) == 4
    assert row["statistic"] == "lean"
    assert float(row["score"]) == pytest.approx(ours.lean.value, abs=1e-5)
    assert float(row["null_score"]) == pytest.approx(max(leans), abs=1e-5)
    assert float(row["auc"]) == sum(lean < ours.lean.value for lean in leans) / 4
    # Of four innocents no rank is rare enough.
    assert "cannot reach" in row["why_hits"] and "cannot reach" in row["why_score"]
    assert row["verdict_hits"] == row["verdict_score"] == "invalid"


def test_the_contest_measures_resumes_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = plan_file(tmp_path), tmp_path / "out"
    options = ["--seed", "1", "--scheme", "mea"]
    assert "2 targets, 8 cells, 0 measured already" in call(path, out, *options)
    rows = {(row["target"], row["removal"]): row for row in rows_of(out)}
    assert set(next(iter(rows.values()))) == set(COLUMNS)
    assert len(rows) == 8
    assert {cell for cell, row in rows.items() if row["error"]} == {("all", "greedy"), ("victim", "greedy")}
    assert "exceeds the query set" in rows["all", "greedy"]["error"]

    # Figures recomputed from what is kept.
    plan = Plan.read(path)
    each = next(t for t in plan.targets([1], ["mea"]) if t.name == "all")
    base = load_base(plan.marks, 1, tmp_path, tmp_path / "work")
    play = run.Play(plan, each, Scene(plan.marks, each.victim, base, tmp_path, tmp_path / "work"))
    cast, runtime = play.cast(), play.runtime
    made = play.remove(cast.struck, cast.attacked, "tuned")
    row = rows["all", "tuned"]
    expected = {
        "accuracy": training.accuracy(made, base.test, runtime),
        "accuracy_before": training.accuracy(cast.attacked, base.test, runtime),
        **rates(made, cast.asked, runtime),
    }
    for name, value in expected.items():
        assert float(row[name]) == pytest.approx(value, abs=1e-6)
    court_says(row, play, cast, made)
    change = float(row["accuracy"]) - float(row["accuracy_before"])
    assert float(row["accuracy_change"]) == pytest.approx(change, abs=2e-6)
    assert float(rows["all", NONE]["accuracy_change"]) == 0
    assert float(rows["victim", NONE]["fidelity"]) == 1

    # Nothing runs twice; another parameter is its own cells alone, and nothing is trained again for them.
    assert "8 cells, 8 measured already" in call(path, out, *options)
    again: list[str] = []
    remove = run.Play.remove
    monkeypatch.setattr(run.Play, "remove", lambda self, *a: again.append(a[-1]) or remove(self, *a))
    changed = ["--set", "removal_contest.removals.pruned.amount=0.7"]
    assert "8 cells, 6 measured already" in call(path, out, *options, *changed)
    assert again == ["pruned", "pruned"]

    # The report.
    text = (out / "contest.md").read_text(encoding="utf-8")
    for part in ("Copy by all:", "The victim:", "Beside the paper. Elsewhere.", "## Cells without a result", "70.1"):
        assert part in text
    assert "## adi\n\nNot measured yet." in text
    assert (out / "mea.png").read_bytes().startswith(b"\x89PNG")
    output = CliRunner().invoke(
        table_main, ["--cells", str(out / "cells"), "--out", str(tmp_path / "t"), "--params", str(path)],
        catch_exceptions=False,
    ).output  # fmt: skip
    assert "6 rows" in output and "2 cells of other parameters left out" in output


def test_two_workers_measure_what_one_does(tmp_path: Path) -> None:
    path = plan_file(tmp_path)
    options = ["--seed", "0", "--scheme", "adi", "--removal", "pruned"]
    call(path, tmp_path / "one", *options)
    (tmp_path / "work").rename(tmp_path / "first work")
    call(path, tmp_path / "two", *options, "--jobs", "2")
    first, second = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(tmp_path / name)]
        for name in ("one", "two")
    )
    assert first == second and len(first) == 4
    assert not any(row["error"] for row in first)


# --- the tables ---


def made(removal: str, change: float, *, stolen: bool, seed: int = 0, **values: Any) -> dict[str, Any]:
    """A row by hand."""
    verdict = "stolen" if stolen else "not shown"
    fixed = {"scheme": "mea", "target": "all", "removal": removal, "seed": seed, "accuracy_change": change,
             "verdict_hits": verdict, "verdict_score": "stolen", "null_wsr": 0.02, "null_score": -1.0, "wsr": 0.5,
             "score": 0.0, "accuracy": 0.8,
             "victim_accuracy": 0.85}  # fmt: skip
    return {**dict.fromkeys(COLUMNS), **fixed, **values}


def test_the_price_of_freedom(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    rows = [
        made(NONE, 0.0, stolen=True),
        made("pruned", -0.02, stolen=False),
        made("tuned", -0.01, stolen=False),
        made("tuned", 0.0, stolen=False, seed=1),
        made("greedy", -0.2, stolen=False),
    ]
    text = table.render(rows, plan, 3, {})
    found = "By hits: free in every seed by tuned, for -0.5 points of accuracy; freeing removals: 2, of 0 the verdict"
    assert f"{found} is invalid in a seed or more; in some seeds: 0." in text
    assert "By scores: no removal frees the thief in every seed for 3 points or less; in some seeds: 0." in text
    assert "3 cells that other parameters gave are left out." in text
    assert "| tuned | 2 | 80.0 ± 0.0 | -0.5 ± 0.7 |" in text
    assert "| 0 of 2 | 2 of 2 |" in text
    # One seed in which the thief is caught makes a removal no way to freedom.
    rows.append(made("tuned", 0.0, stolen=True, seed=2))
    text = table.render(rows, plan, 0, {})
    assert "free in every seed by pruned, for -2.0 points" in text and "in some seeds: 1." in text
    # A verdict that is invalid accuses nobody, and the AUC of a model that does not do the task is not shown.
    rows.append(made("pruned", -0.02, stolen=False, seed=1, verdict_hits="invalid", auc=0.625, accuracy=0.1))
    text = table.render(rows, plan, 0, {})
    assert "freeing removals: 1, of 1 the verdict is invalid in a seed or more" in text
    assert "0.62" not in text
    assert "0.25 | 0 of 1" in table.render([made(NONE, 0.0, stolen=False, auc=0.25)], plan, 0, {})


def test_names_in_the_picture_lie_apart_and_inside() -> None:
    assert pictures.spaced([1.0, 5.0, 9.0], 0.0, 10.0, 1.0) == [1.0, 5.0, 9.0]
    assert pictures.spaced([5.0, 5.0, 5.0], 0.0, 10.0, 1.0) == [5.0, 6.0, 7.0]
    assert pictures.spaced([-3.0, 9.5, 9.6, 9.9], 0.0, 10.0, 1.0) == [0.0, 8.0, 9.0, 10.0]
    assert pictures.spaced([0.0] * 4, 0.0, 2.0, 1.0) == [-1.0, 0.0, 1.0, 2.0]


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    artifacts.write_json(tmp_path / "cells" / "x.json", {"hash": "", "row": {}})
    with pytest.raises(UserError, match=r"x\.json: not a file of cells"):
        table.read([tmp_path / "cells"], plan)
    with pytest.raises(UserError, match="no cells of these parameters"):
        table.write([tmp_path / "nothing"], tmp_path, plan)
