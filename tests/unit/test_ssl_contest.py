"""The contest of encoders: its cells, what is measured again, its rows and tables, its command."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from hallmark import artifacts, models
from hallmark.contest import cells
from hallmark.contest.ssl import run, table
from hallmark.contest.ssl.command import main
from hallmark.contest.ssl.plan import COLUMNS, Plan
from hallmark.errors import UserError
from hallmark.ssl import probes
from hallmark.ssl.schemes.mea_defender import read_mark
from tests.unit.test_architecture import ROOT

NETWORK = {"name": "cnn9", "width": 8}
TRAINING = {"epochs": 1, "batch_size": 50, "lr": 0.003}
PARAMS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 9},
    "prepare_data": {"source": "digits", "train": 400, "test": 300, "reserve": 50, "queries": 500},
    "ssl_contest": {
        "seeds": [0, 1],
        "queries": 40,
        "user": 150,
        "judge": 100,
        "simclr": {"projection": [16, 8], "views": {"flip": False}},
        "training": TRAINING,
        "mlp": {"hidden": 16, "training": {"epochs": 2, "batch_size": 50, "lr": 0.01}},
        "architectures": {"small": NETWORK},
        "thief": {"method": "regression", "budget": 200, "architecture": NETWORK, "training": TRAINING},
        "schemes": {
            "mea": {
                "scheme": "mea_defender",
                "params": {
                    "source": [1, 7],
                    "target": 2,
                    "way": "top_bottom",
                    "way_params": {},
                    "evasion_ways": ["donut"],
                    "samples": {"watermark": 8, "evasion": 4},
                },
            },
            "plain": {"scheme": "none", "like": "mea"},
        },
        "thieves": {"all": {}, "greedy": {"budget": 5000}},
        "groups": {
            "main": {
                "title": "Main",
                "schemes": ["mea", "plain"],
                "architectures": ["small"],
                "thieves": ["all", "greedy"],
                "paper": {"mea/all": {"copy_wsr": 87.0, "victim_accuracy": 78.9}},
            }
        },
    },
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with (tmp_path / "ssl.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(PARAMS, file)
    return tmp_path / "ssl.yaml"


def options(path: Path, *more: str) -> list[str]:
    root = path.parent
    return [f"--params={path}", f"--out={root / 'out'}", f"--raw={root}", f"--work={root / 'work'}", "--seed=0", *more]


def test_the_contest_measures_writes_and_resumes(path: Path) -> None:
    result = CliRunner().invoke(main, options(path), catch_exceptions=False)
    assert result.exit_code == 0 and "4 rows" in result.output
    out = path.parent / "out"
    with (out / "contest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 4
    for row in rows:
        if row["thief"] == "greedy":
            assert "greedy.budget: 5,000 exceeds the query set of 250 images" in row["error"]
            assert not row["copy_linear_wsr"] and row["victim_linear_wsr"]
        else:
            assert not row["error"] and 0 <= float(row["copy_mlp_wsr"]) <= 1
            assert float(row["victim_linear_accuracy"]) > 0.3 and not row["copy_own_wsr"]
    text = (out / "contest.md").read_text(encoding="utf-8")
    assert "| mea | cnn9-8 | all |" in text and "| 87 |" in text and "## Cells without a result" in text
    # The control is one encoder for all marks, and not the victims' twin, which scheme none is.
    mine, other = (next(r for r in rows if (r["scheme"], r["thief"]) == (s, "all")) for s in ("mea", "plain"))
    for model in ("unmarked", "unmarked_copy"):
        for name in ("linear_accuracy", "mlp_wsr", "features_plain"):
            assert mine[f"{model}_{name}"] == other[f"{model}_{name}"]
    assert other["victim_linear_accuracy"] != other["unmarked_linear_accuracy"] != mine["victim_linear_accuracy"]
    plan = Plan.read(path)
    each, base = plan.victims([0], schemes=["mea"])[0], run.load(plan, 0, path.parent, path.parent / "work")
    control = models.load(path.parent / "work" / f"unmarked-{plan.unmarked_hash(each)}" / "model", base.runtime)
    copied = probes.encoder(run.steal(plan, base, control, "all", path.parent), base.runtime)
    key = read_mark(artifacts.read_json(path.parent / "work" / f"victim-{plan.victim_hash(each)}" / "mark.json"), "m")
    again = key.rates(copied, base.panel, plan.contest.queries, base.runtime)
    assert float(mine["unmarked_copy_linear_wsr"]) == pytest.approx(again["linear_wsr"], abs=1e-6)
    before = {file: file.read_bytes() for file in (out / "cells").iterdir()}
    again = CliRunner().invoke(main, options(path), catch_exceptions=False)
    assert "4 measured already" in again.output
    assert {file: file.read_bytes() for file in (out / "cells").iterdir()} == before


def test_a_thief_may_ask_another_data_set(path: Path) -> None:
    """Of which there are more images than the split leaves him, in another size."""
    plan = Plan.read(path, ["ssl_contest.thieves.elsewhere={images: {source: digits}, budget: 900}"])
    base = run.load(plan, 0, path.parent, path.parent / "work")
    assert len(base.pool) < 900
    victim = models.build(plan.contest.architectures["small"], base.train.images, base.train.classes, base.runtime, "v")
    copy = run.steal(plan, base, victim, "elsewhere", path.parent)
    assert copy.spec.classes == victim.spec.classes
    with pytest.raises(UserError, match=r"thieves\.greedy"):
        run.steal(plan, base, victim, "greedy", path.parent)


def test_a_kept_victim_is_encoder_and_classifier(path: Path) -> None:
    plan = Plan.read(path)
    (each,) = plan.victims([0], schemes=["mea"], thieves=["all"])
    work = path.parent / "work"
    run.run_victim(plan, each, raw=path.parent, out=path.parent / "out", work=work)
    base = run.load(plan, 0, path.parent, work)
    network = models.load(work / f"victim-{plan.victim_hash(each)}" / "model", base.runtime)
    row = artifacts.read_json(cells.cell_file(each, "all", path.parent / "out"))["row"]
    hits = models.logits(network, base.panel.test.images, base.runtime).argmax(1) == base.panel.test.labels
    assert float(hits.float().mean()) == pytest.approx(row["victim_linear_accuracy"], abs=1e-5)


def test_no_two_parts_share_an_image(path: Path) -> None:
    base = run.load(Plan.read(path), 0, path.parent, path.parent / "work")
    parts = [base.train, base.pool, base.panel.user, base.panel.judge, base.panel.test]
    ids = [int(number) for part in parts for number in part.ids]
    assert len(ids) == len(set(ids)) and [len(part) for part in parts] == [400, 250, 150, 100, 300]


def test_a_cell_depends_on_its_own_parameters_alone(path: Path) -> None:
    plan = Plan.read(path)
    marked, plain = plan.victims([0])
    other = Plan.read(path, ["ssl_contest.schemes.mea.params.target=3"])
    assert other.cell_hash(marked, "all") != plan.cell_hash(marked, "all")
    assert other.cell_hash(plain, "all") != plan.cell_hash(plain, "all")  # it takes the key's parameters from the other
    other = Plan.read(path, ["ssl_contest.thieves.greedy.budget=300"])
    assert other.cell_hash(marked, "all") == plan.cell_hash(marked, "all")
    assert other.cell_hash(marked, "greedy") != plan.cell_hash(marked, "greedy")
    assert plan.cell_hash(marked, "all") != plan.cell_hash(plan.victims([1])[0], "all")
    # User and judge take images from the thief's: his copies are others, and so is the victim's probe.
    for change in ("user=140", "judge=90"):
        other = Plan.read(path, [f"ssl_contest.{change}"])
        assert other.unmarked_hash(marked) != plan.unmarked_hash(marked)
        assert other.victim_hash(marked) != plan.victim_hash(marked)
    # A thief is known by what his block leaves to the defaults as well.
    written_out = Plan.read(path, ["ssl_contest.thief.architecture.dropout=0.0"])
    assert written_out.thief("all") != plan.thief("all")
    assert written_out.cell_hash(marked, "all") == plan.cell_hash(marked, "all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ssl_contest.groups.main.architectures=[none]", r"groups\.main\.architectures: no 'none'"),
        ("ssl_contest.groups.main.thieves=[nobody]", r"groups\.main: paper: 'mea/all' is no cell of the group"),
        ("ssl_contest.schemes.plain.like=plain", r"schemes\.plain\.like: 'plain' is no block that stands alone"),
        ("ssl_contest.simclr.temperature=0", r"simclr\.temperature"),
        ("ssl_contest.schemes.mea.params.tagret=3", r"schemes\.mea\.params\.tagret"),
        ("ssl_contest.schemes.other={scheme: simclr}", "schemes.other: unknown"),
        ("ssl_contest.thieves.all.budgte=3", r"thieves\.all\.budgte"),
    ],
)
def test_a_plan_that_is_wrong_is_one_line(path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan.read(path, [change])


def test_names_that_the_plan_does_not_hold(path: Path) -> None:
    plan = Plan.read(path)
    with pytest.raises(UserError, match="ssl_contest has no scheme 'x'; there are mea, plain"):
        plan.victims(schemes=["x"])
    with pytest.raises(UserError, match="user and judge take 500 of 500"):
        changed = Plan.read(path, ["ssl_contest.user=400"])
        run.load(changed, 0, path.parent, path.parent / "work")
    with pytest.raises(UserError, match=r"ssl_contest\.judge: 5 images hold none of class '\d'; raise it"):
        run.load(Plan.read(path, ["ssl_contest.judge=5"]), 0, path.parent, path.parent / "work")
    with pytest.raises(UserError, match="no cells of these parameters"):
        table.write([path.parent / "nothing"], path.parent, plan)


def test_the_repositorys_plan_is_sound() -> None:
    plan = Plan.read(ROOT / "contest" / "ssl.yaml")
    assert len({each.name for each in plan.victims()}) == len(plan.victims([0]))
    for name in plan.contest.schemes:
        plan.scheme_params(name)
    for name in plan.contest.thieves:
        assert plan.thief(name)["budget"] <= plan.prepare_data.queries - plan.contest.user - plan.contest.judge
