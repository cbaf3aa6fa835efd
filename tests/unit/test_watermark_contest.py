"""The contest of watermarks: its cells, what is measured again, its rows, its tables, its command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hallmark import artifacts, extraction, models, training
from hallmark.contest import cells, marks
from hallmark.contest.marks import Victim
from hallmark.contest.parameters import digest
from hallmark.contest.watermark import pictures, run, table
from hallmark.contest.watermark.command import main
from hallmark.contest.watermark.command_table import main as table_main
from hallmark.contest.watermark.plan import COLUMNS, Plan
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.watermark.schemes import rates, unseen_rate
from tests.unit.test_architecture import ROOT

NETWORK = {"name": "cnn9", "width": 8}
TRAINING = {"epochs": 4, "batch_size": 50, "lr": 0.004}
MEA = {
    "source": [1, 7],
    "target": 2,
    "way": "top_bottom",
    "way_params": {},
    "evasion_ways": ["donut"],
    "balance": "fixed",
    "weights": {"combination": 0.05, "verification": 0.6, "evasion": 0.3},
    "samples": {"watermark": 8, "evasion": 4},
}
PARAMS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 9},
    "prepare_data": {"source": "digits", "train": 500, "test": 300, "reserve": 50, "queries": 400},
    "watermark_contest": {
        "seeds": [0, 1],
        "queries": 40,
        "victim": {"architecture": NETWORK, "training": TRAINING},
        "thief": {
            "method": "distillation",
            "budget": 300,
            "temperature": 4.0,
            "architecture": NETWORK,
            "training": TRAINING,
        },
        "schemes": {
            "mea": {"scheme": "mea_defender", "params": MEA},
            "none": {"scheme": "none", "like": "mea"},
            "adi": {"scheme": "adi", "params": {"size": 20, "per_batch": 5}},
            "wide": {"like": "mea", "architecture": {"name": "alexnet", "width": 4}, "params": {"target": 3}},
        },
        "thieves": {"all": {}, "half": {"budget": 150}, "greedy": {"budget": 5000}},
        "groups": {
            "main": {
                "title": "Main",
                "schemes": ["mea", "none", "adi"],
                "thieves": ["all"],
                "paper": {"mea/all": {"copy_wsr": 76.2, "victim_accuracy": 81.0}},
                "paper_note": "Elsewhere.",
            },
            "curve": {"title": "Curve", "schemes": ["mea"], "thieves": ["half", "all"], "picture": "curve"},
            "grid": {"title": "Grid", "schemes": ["mea", "wide"], "thieves": ["all", "greedy"], "picture": "matrix"},
        },
    },
}


def plan_file(folder: Path, **contest: Any) -> Path:
    """The parameters above with other values in section ``watermark_contest``."""
    path = folder / "watermark.yaml"
    values = {**PARAMS, "watermark_contest": {**PARAMS["watermark_contest"], **contest}}
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


def steady(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what differs from run to run."""
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]


# --- the plan ---


def test_a_plan_has_every_cell_of_its_groups_once(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    victims = plan.victims()
    first = [("mea", ("all", "half", "greedy")), ("none", ("all",)), ("adi", ("all",)), ("wide", ("all", "greedy"))]
    assert [(v.seed, v.name, v.thieves) for v in victims] == [(seed, *own) for seed in (0, 1) for own in first]
    assert len({plan.cell_hash(v, thief) for v in victims for thief in v.thieves}) == 14
    chosen = plan.victims(seeds=[5], groups=["grid", "curve"], schemes=["mea"], thieves=["half"])
    assert chosen == [Victim(5, "mea", ("half",))]
    with pytest.raises(UserError, match="has no scheme 'me'"):
        plan.victims(schemes=["me"])
    with pytest.raises(UserError, match="no group has"):
        plan.victims(groups=["curve"], schemes=["adi"])


def test_a_scheme_takes_from_another_what_it_does_not_say(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    wide, mea, none = (plan.contest.resolved(name) for name in ("wide", "mea", "none"))
    assert (wide.scheme, wide.training, wide.params["target"], wide.params["way"]) == (
        "mea_defender",
        mea.training,
        3,
        "top_bottom",
    )
    assert wide.architecture != mea.architecture
    assert (none.scheme, none.params) == ("none", mea.params)


@pytest.mark.parametrize(
    ("contest", "words"),
    [
        ({"groups": {"g": {"title": "g", "schemes": ["x"], "thieves": ["all"]}}}, "no 'x'"),
        ({"groups": {"g": {"title": "g", "schemes": ["mea"], "thieves": ["x"]}}}, "no 'x'"),
        ({"schemes": {**PARAMS["watermark_contest"]["schemes"], "a": {"like": "a"}}}, "no other block"),
        ({"schemes": {**PARAMS["watermark_contest"]["schemes"], "a": {}}}, r"schemes\.a\.scheme: is missing"),
        (
            {"thieves": {**PARAMS["watermark_contest"]["thieves"], "a": {"like": "b"}}},
            r"thieves\.a\.like: 'b' is no other",
        ),
        (
            {"thieves": {**PARAMS["watermark_contest"]["thieves"], "a": {"like": "a"}}},
            r"thieves\.a\.like: 'a' is no other",
        ),
        (
            {"groups": {"g": {"title": "g", "schemes": ["mea"], "thieves": ["all"], "paper": {"mea/half": {}}}}},
            "no cell of the group",
        ),
        # In no group, but a mistake all the same: it must not cost hours, nor become the figures of a failure.
        (
            {"schemes": {**PARAMS["watermark_contest"]["schemes"], "a": {"like": "mea", "params": {"tagret": 3}}}},
            r"schemes\.a\.params\.tagret",
        ),
        *(
            ({"schemes": {**PARAMS["watermark_contest"]["schemes"], "a": {"like": "mea", "params": wrong}}}, words)
            for wrong, words in (
                ({"way": "top_botom"}, r"schemes\.a\.params: unknown way to combine 'top_botom'"),
                ({"evasion_ways": ["dnut"]}, r"schemes\.a\.params\.evasion_ways: unknown way to combine 'dnut'"),
                ({"way_params": {"x": 1}}, r"schemes\.a\.params\.way_params\.x: unknown parameter"),
            )
        ),
        (
            {"schemes": {**PARAMS["watermark_contest"]["schemes"], "a": {"scheme": "mea_defende"}}},
            "schemes.a: unknown watermark scheme 'mea_defende'",
        ),
        (
            {"thieves": {**PARAMS["watermark_contest"]["thieves"], "a": {"temprature": 2}}},
            r"thieves\.a\.temprature",
        ),
    ],
)
def test_a_bad_plan_is_one_line(tmp_path: Path, contest: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Plan.read(plan_file(tmp_path, **contest))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ("watermark_contest.queries=41", {"mea/all", "mea/half", "none/all", "adi/all", "wide/all"}),
        ("watermark_contest.thieves.half.budget=151", {"mea/half"}),
        ("watermark_contest.schemes.adi.params.size=21", {"adi/all"}),
        ("watermark_contest.schemes.mea.params.target=4", {"mea/all", "mea/half", "none/all"}),
        ("watermark_contest.schemes.wide.architecture.width=5", {"wide/all"}),
        ("watermark_contest.groups.main.title=other", set()),
        ("runtime.seed=3", set()),
    ],
)
def test_a_cell_is_known_by_the_parameters_that_concern_it(tmp_path: Path, change: str, touched: set[str]) -> None:
    path = plan_file(tmp_path)
    before, after = Plan.read(path), Plan.read(path, [change])
    found = {
        f"{v.name}/{t}": before.cell_hash(v, t) == after.cell_hash(v, t) for v in before.victims([0]) for t in v.thieves
    }
    assert {name for name, same in found.items() if not same and "greedy" not in name} == touched


def test_a_thief_like_another_is_it_but_for_what_is_given(tmp_path: Path) -> None:
    thieves: dict[str, Any] = {"one": {"budget": 100}, "two": {"like": "one", "budget": 50}}
    thieves["none"] = {"answers": None}  # of the shared block, which has them
    shared = {**PARAMS["watermark_contest"]["thief"], "answers": "labels", "temperature": 1.0}
    groups = {"g": {"title": "g", "schemes": ["mea"], "thieves": ["one", "two"]}}
    plan = Plan.read(plan_file(tmp_path, thief=shared, thieves=thieves, groups=groups))
    assert plan.thief("two") == {**plan.thief("one"), "budget": 50}
    assert plan.thief("two")["answers"] == "labels"
    assert plan.thief_row("two")["budget"] == 50
    assert "answers" in plan.thief("one") and "answers" not in plan.thief("none")


def test_no_bridge_is_no_part_of_a_hash(tmp_path: Path) -> None:
    """Cells that were measured before there were bridges stay measured; a bridge makes others."""
    plan = Plan.read(plan_file(tmp_path))
    each = next(victim for victim in plan.victims([0]) if plan.contest.resolved(victim.name).scheme == "mea_defender")
    block = plan.contest.resolved(each.name)
    values = plan.scheme_params(each.name).model_dump(mode="json")
    assert values.pop("bridge") is None
    assert values["weights"].pop("bridge") == 0
    assert plan.victim_hash(each) == digest([plan.twin_hash(each), block.scheme, values])
    where = f"watermark_contest.schemes.{each.name}.params"
    changes = [f"{where}.bridge={{share: 0.1, softness: 0.5}}", f"{where}.weights.bridge=0.1"]
    assert Plan.read(plan_file(tmp_path), changes).victim_hash(each) != plan.victim_hash(each)


def test_a_new_way_makes_other_cells_of_marks_that_evade_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan_file(tmp_path)
    where = "watermark_contest.schemes.mea.params.evasion_ways"
    all_others, some = (Plan.read(path, [f"{where}={ways}"]) for ways in ("others", "[donut]"))
    each = next(victim for victim in some.victims([0]) if victim.name == "mea")
    before = [plan.victim_hash(each) for plan in (all_others, some)]
    monkeypatch.setattr(marks, "WAYS", marks.WAYS - {"corner"})  # as if that way were a new one
    after = [plan.victim_hash(each) for plan in (all_others, some)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
    values = {"ways": "all", "share": 1.0}
    assert marks.naming_new_ways(values) == {"ways": ["all", "corner"], "share": 1.0}
    monkeypatch.undo()
    assert marks.naming_new_ways(values) == values


@pytest.mark.parametrize(
    ("name", "victims", "cells", "network"),
    [
        ("watermark", 37, 97, "cnn9"),
        ("watermark_cifar10", 4, 12, "cnn9"),
        ("watermark_cifar10_full", 4, 14, "vgg_like"),
    ],
)
def test_the_repositorys_plans_are_valid_to_their_last_parameter(
    name: str, victims: int, cells: int, network: str
) -> None:
    plan = Plan.read(ROOT / "contest" / f"{name}.yaml")
    found = plan.victims()
    assert len(found) == victims * 3
    assert sum(len(each.thieves) for each in found) == cells * 3
    for thief in plan.contest.thieves:
        own = plan.thief_params(thief)[1]
        assert own.method == "dfme" or own.budget <= plan.prepare_data.queries  # dfme makes what it asks
    cell = plan.contest.resolved("mea_defender")
    section = artifacts.rounded(load("params.yaml")["train_watermarked"])
    key = {"source", "target", "way", "way_params"} if name != "watermark" else set()
    own = {each: value for each, value in cell.params.items() if each not in key}
    assert cell.training is not None
    larger = cell.training.batch_size / section["training"]["batch_size"]
    section["samples"] = {kind: count * larger for kind, count in section["samples"].items()}
    assert {each: section[each] for each in own} == own
    assert cell.architecture is not None and cell.architecture.name == network
    if name != "watermark_cifar10_full":
        assert network == section["architecture"]["name"]


def load(name: str) -> dict[str, Any]:
    from hallmark.config import read_params  # noqa: PLC0415 - for this alone

    return read_params(ROOT / name)


# --- the work ---


def test_the_contest_measures_resumes_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = plan_file(tmp_path), tmp_path / "one"
    assert "4 victims, 7 cells, 0 measured already" in call(path, out, "--seed", "0")
    rows = rows_of(out)
    assert set(rows[0]) == set(COLUMNS)
    assert len(rows) == 7

    # A thief who cannot be is a row, and costs no other.
    failed = {(row["scheme"], row["thief"]) for row in rows if row["error"]}
    assert failed == {("mea", "greedy"), ("wide", "greedy")}
    assert all("exceeds the query set" in row["error"] for row in rows if row["thief"] == "greedy")

    # Figures recomputed from what is kept.
    plan = Plan.read(path)
    work = tmp_path / "work"
    scene = run.Scene(plan, Victim(0, "mea", ("all",)), run.load_base(plan, 0, tmp_path, work), tmp_path, work)
    struck, base = scene.victim(), scene.base
    row = next(row for row in rows if (row["scheme"], row["thief"]) == ("mea", "all"))
    accuracy = training.accuracy(struck.network, base.test, base.runtime)
    assert float(row["victim_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    asked = struck.mark.queries(base.test, 40, base.runtime.generator("contest/queries"))
    again = scene.steal("all", struck.network)
    for model, network in (("victim", struck.network), ("copy", again), ("unmarked", scene.twin())):
        expected = {**rates(network, asked, base.runtime), "unseen": unseen_rate(network, asked, base.runtime)}
        assert {name: float(row[f"{model}_{name}"]) for name in expected} == pytest.approx(expected, abs=1e-6)
    loss = float(row["unmarked_accuracy"]) - float(row["victim_accuracy"])
    assert float(row["accuracy_loss"]) == pytest.approx(loss, abs=2e-6)
    assert (row["queries"], row["budget"], row["victim_architecture"]) == ("40", "300", "cnn9-8")

    # Without a mark the victim is another innocent model than the twin, and is asked the same.
    plain = next(row for row in rows if row["scheme"] == "none")
    assert plain["victim_accuracy"] != plain["unmarked_accuracy"]
    for name in ("unmarked_wsr", "unmarked_accuracy", "unmarked_copy_accuracy"):
        assert plain[name] == row[name]
    assert float(plain["victim_wsr"]) < 0.5 < float(row["victim_wsr"])
    trigger_set = next(row for row in rows if row["scheme"] == "adi")
    assert (trigger_set["queries"], trigger_set["copy_plain"]) == ("20", "")

    # Nothing runs twice; a thief more is his cells alone, and the victim is there.
    ran: list[str] = []
    steal, build = run.Scene.steal, models.build
    monkeypatch.setattr(run.Scene, "steal", lambda self, thief, victim: ran.append(thief) or steal(self, thief, victim))
    monkeypatch.setattr(run.Scene, "fresh", lambda self: ran.append("fresh") or build)
    assert "7 cells, 7 measured already" in call(path, out, "--seed", "0")
    more = {**PARAMS["watermark_contest"]["thieves"], "quarter": {"budget": 75}}
    group = {"quarter": {"title": "Quarter", "schemes": ["mea"], "thieves": ["quarter"]}}
    path = plan_file(tmp_path, thieves=more, groups={**PARAMS["watermark_contest"]["groups"], **group})
    assert "1 cells, 0 measured already" in call(path, out, "--seed", "0", "--group", "quarter")
    assert ran == ["quarter", "quarter"]  # from the twin and from the victim
    assert [row for row in steady(rows_of(out)) if row["thief"] != "quarter"] == steady(rows)

    # The report.
    text = (out / "contest.md").read_text(encoding="utf-8")
    assert "Beside the paper. Elsewhere." in text
    assert "## Cells without a result" in text
    for name in ("main", "curve", "grid"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    output = CliRunner().invoke(
        table_main,
        ["--cells", str(out / "cells"), "--out", str(tmp_path / "t"), "--params", str(path),
         "--set", "watermark_contest.schemes.adi.params.size=21"],
        catch_exceptions=False,
    ).output  # fmt: skip
    assert "7 rows" in output and "1 cells of other parameters left out" in output


def test_a_thief_has_what_his_block_says_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thieves = {
        "soft": {},
        "labels": {"answers": "labels", "temperature": 1.0},
        "hiding": {"hide": [2]},
        "foreign": {"images": {"source": "digits"}, "budget": 30},
    }
    groups = {"g": {"title": "g", "schemes": ["adi"], "thieves": list(thieves)}}
    plan, work = Plan.read(plan_file(tmp_path, thieves=thieves, groups=groups)), tmp_path / "work"
    base = run.load_base(plan, 0, tmp_path, work)
    scene = run.Scene(plan, Victim(0, "adi", tuple(thieves)), base, tmp_path, work)
    network, seen = scene.fresh(), {}

    class Spy:
        @staticmethod
        def steal(oracle: extraction.Oracle, thief: extraction.Thief, block: extraction.AttackParams) -> None:
            images = base.queries.images[:20]
            seen[len(seen)] = oracle(images), len(thief.data), oracle.budget, thief.classes

    original = extraction.attack_params
    monkeypatch.setattr(extraction, "attack_params", lambda block, where: (Spy, original(block, where)[1]))
    for thief in thieves:
        scene.steal(thief, network)
    expected = models.probabilities(network, to_float(base.queries.images[:20]), base.runtime)
    assert torch.equal(seen[0][0], expected)
    assert torch.equal(seen[1][0], torch.nn.functional.one_hot(expected.argmax(1), 10).float())
    assert not seen[2][0][:, 2].any() and seen[2][0].sum(1).allclose(torch.ones(20))
    assert torch.equal(seen[3][0], expected)
    assert [own[1] for own in seen.values()] == [400, 400, 400, 1797]
    assert [own[2] for own in seen.values()] == [300, 300, 300, 30]
    assert {own[3] for own in seen.values()} == {base.train.classes}


def test_a_mark_is_developed_on_images_that_are_not_the_test_parts(tmp_path: Path) -> None:
    path = plan_file(tmp_path)
    plan, other = Plan.read(path), Plan.read(path, ["watermark_contest.held_out=150"])
    assert plan.data_hash(0) != other.data_hash(0)
    usual, held = (run.load_base(each, 0, tmp_path, tmp_path / "work") for each in (plan, other))
    assert (len(held.test), len(held.queries)) == (150, 250)
    assert torch.equal(held.train.ids, usual.train.ids)
    both = torch.cat([held.test.ids, held.queries.ids])
    assert torch.equal(both.sort().values, usual.queries.ids.sort().values)
    many = Plan.read(path, ["watermark_contest.held_out=400"])
    with pytest.raises(UserError, match="held_out: 400 of the 400 images"):
        run.load_base(many, 0, tmp_path, tmp_path / "work")


def test_two_workers_measure_what_one_does(tmp_path: Path) -> None:
    path = plan_file(tmp_path)
    options = ["--seed", "0", "--seed", "3", "--group", "main", "--scheme", "adi"]
    call(path, tmp_path / "one", *options)
    (tmp_path / "work").rename(tmp_path / "first work")
    call(path, tmp_path / "two", *options, "--jobs", "2")
    assert steady(rows_of(tmp_path / "one")) == steady(rows_of(tmp_path / "two"))
    assert len(rows_of(tmp_path / "two")) == 2
    kept = {folder.name for folder in (tmp_path / "work").iterdir()}
    assert not [name for name in kept if name.startswith(".")]
    assert kept - {"logs"} == {folder.name for folder in (tmp_path / "first work").iterdir()}


def test_a_bug_is_a_row_that_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = plan_file(tmp_path), tmp_path / "out"
    plan, each = Plan.read(path), Victim(0, "none", ("all",))

    def broken(self: run.Scene) -> None:
        raise ZeroDivisionError("no\nimages")

    with monkeypatch.context() as patched:
        patched.setattr(run.Scene, "twin", broken)
        run.run_victim(plan, each, raw=tmp_path, out=out, work=tmp_path / "work")
    stored = artifacts.read_json(cells.cell_file(each, "all", out))
    assert (stored["hash"], stored["row"]["error"]) == ("", "bug: ZeroDivisionError: no images")
    assert not cells.finished(plan, each, out)
    assert table.read([out], plan)[0][0]["error"]
    run.run_victim(plan, each, raw=tmp_path, out=out, work=tmp_path / "work")
    assert cells.finished(plan, each, out) == {"all"}


# --- the tables ---


def made(scheme: str = "mea", thief: str = "all", seed: int = 0, **values: Any) -> dict[str, Any]:
    """A row by hand."""
    return {**dict.fromkeys(COLUMNS), "scheme": scheme, "thief": thief, "seed": seed, **values}


def test_a_table_tells_mean_and_spread_beside_the_paper(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    rows = [
        made(copy_wsr=0.5, victim_accuracy=0.8, copy_wfpr=0.1),
        made(copy_wsr=0.7, victim_accuracy=0.9, seed=1),
        made("adi", copy_wsr=0.12),
        made("none", error="it failed"),
    ]
    text = table.render(rows, plan, 2, {})
    assert "2 cells that other parameters gave are left out." in text
    assert "| mea | all | 85.0 ± 7.1 | 81 | 60.0 ± 14.1 | 76.2 |" in text
    assert "| mea | 60.0 ± 14.1 | - |" in text  # of the grid: schemes x thieves
    assert "| adi | all | 1 | - | - | 12.0 | - |" in text  # of the copies
    assert "| mea | 2 | 85.0 ± 7.1 | - |" in text  # of the victims
    assert "| none/all seed 0 | it failed |" in text
    assert "Not measured yet." not in text
    assert "Not measured yet." in table.render(rows[2:3], plan, 0, {})
    # A gap is seen: as a count, and as a row of dashes.
    gaps = table.render(rows[:1], plan, 0, {})
    assert "Measured: 1 of " in gaps and re.search(r"\| 0 \|( - \|)+", gaps)
    assert table.percent([made(copy_wsr=-0.0001)], "copy_wsr") == "0.0"


def test_a_curve_bears_two_thieves_of_one_budget(tmp_path: Path) -> None:
    group = Plan.read(plan_file(tmp_path)).contest.groups["curve"]
    row = {"copy_wsr": 0.5, "copy_accuracy": 0.5}
    found = {("mea", "half"): [row], ("mea", "all"): [row]}
    assert pictures.draw(group, found, {"half": {"budget": 5}, "all": {"budget": 5}}) is not None


def test_no_two_cells_share_a_file() -> None:
    one, other = Victim(0, "a", ("b-c",)), Victim(0, "a-b", ("c",))
    assert cells.cell_file(one, "b-c", Path()) != cells.cell_file(other, "c", Path())


def test_a_picture_bears_gaps(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    rows = [made(copy_wsr=0.5, copy_accuracy=0.8), made("adi", victim_wsr=1.0)]
    for group in plan.contest.groups.values():
        found = table.of_group(rows, group)
        assert pictures.draw(group, found, {t: plan.thief(t) for t in group.thieves}) is not None
        assert pictures.draw(group, {}, {}) is None


def test_damaged_cells_are_one_line(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    artifacts.write_json(tmp_path / "cells/x.json", {"hash": ""})
    with pytest.raises(UserError, match="not a file of cells"):
        table.read([tmp_path / "cells"], plan)
    with pytest.raises(UserError, match="run the contest first"):
        table.write([tmp_path / "nowhere"], tmp_path, plan)
