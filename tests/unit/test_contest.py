"""The contest: its cells, what is measured again, its rows' arithmetic, its claims."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hallmark import artifacts, models, poison
from hallmark.contest import common, workers
from hallmark.contest.purification import cells, fights, run, table
from hallmark.contest.purification.base import load_base, train_model
from hallmark.contest.purification.claims import Duel, averages, beats, check_one_run, claims, difference, duels, name
from hallmark.contest.purification.command import main
from hallmark.contest.purification.command_table import main as table_main
from hallmark.contest.purification.plan import COLUMNS, VERSIONS, Cell, Contest, Plan
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.poison import Poisoned
from hallmark.purify import methods
from tests.unit.conftest import toy_images
from tests.unit.test_architecture import MODULES, ROOT, closure, load_yaml

TRAINING = {"epochs": 2, "batch_size": 50, "lr": 0.002}
PARAMS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32", "seed": 9},
    "prepare_data": {"source": "digits", "train": 400, "test": 300, "reserve": 100, "queries": 50},
    "train_diffusion": {
        "source": "train",
        "trained_below": 150,
        "unshuffle": 1,
        "channels": [8, 16],
        "layers": 1,
        "ema_decay": 0.9,
        "training": {**TRAINING, "epochs": 1},
    },
    "purify_data": {
        "method": "hallmark",
        "repair": "restore",
        "architecture": {"name": "cnn9", "width": 4},
        "training": TRAINING,
        "rounds": {"start": 100, "rounds": 2, "sampler": "ddim", "steps": 3},
        "restore": {"confidence": 0.1, "percentile": 0.8},
    },
    "contest": {
        "seeds": [0, 1],
        "ours": "dataelixir/restore",
        "models": 2,
        "clean_models": 2,
        "attacks": {
            "none": {"attack": "none"},
            "patch": {"attack": "badnets", "rates": [0.02, 0.1, 0.2], "params": {"size": 2}},
            "impossible": {"attack": "badnets", "label_mode": "clean", "rates": [0.5], "target": 3},
        },
        "sanitizers": {"dataelixir": ["restore", "drop"]},
    },
}
ROUNDS = {"start": 100, "rounds": 2, "sampler": "ddim", "steps": 3, "keep": 1}
SECONDS = ("detect_seconds", "repair_seconds", "train_seconds")


def plan_file(folder: Path, **contest: Any) -> Path:
    """The parameters above with other values in section ``contest``."""
    purify = {**PARAMS["purify_data"], "dataelixir": {"rounds": ROUNDS, "tau": 1}}
    values = {**PARAMS, "purify_data": purify, "contest": {**PARAMS["contest"], **contest}}
    path = folder / "contest.yaml"
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


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in SECONDS} for row in rows]


def test_a_plan_has_every_cell_once_and_middle_rates_first(tmp_path: Path) -> None:
    sanitizers = {"dataelixir": ["restore", "drop"], "hallmark": ["drop"], "scan": ["drop"]}
    seldom = ["dataelixir/drop", "hallmark/drop"]
    plan = Plan.read(plan_file(tmp_path, sanitizers=sanitizers, middle_only=seldom))
    sets = plan.sets()
    ranked = ["none-seed", "patch-0.1-seed", "impossible-0.5-seed"]
    assert [s.key for s in sets[:6]] == [f"{key}{seed}" for seed in (0, 1) for key in ranked]
    assert [s.key for s in sets[6:]] == [f"patch-{rate}-seed{seed}" for rate in (0.02, 0.2) for seed in (0, 1)]
    ours = [("none", "none"), ("dataelixir", "restore"), ("dataelixir", "drop")]
    assert [(c.sanitizer, c.repair) for c in sets[1].cells] == [*ours, ("hallmark", "drop"), ("scan", "drop")]
    assert [(c.sanitizer, c.repair) for c in sets[6].cells] == [*ours[:2], ("scan", "drop")]
    assert plan.baselines("patch", 0.1) == ["hallmark/drop", "scan/drop"]
    assert plan.baselines("patch", 0.02) == ["scan/drop"]
    assert plan.baselines("patch", 0.03) == plan.baselines("unknown", 0.1) == []
    assert len({plan.cell_hash(s, c) for s in sets for c in s.cells}) == sum(len(s.cells) for s in sets)


def test_an_attack_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    attacks = {**PARAMS["contest"]["attacks"], "none": {"attack": "none", "seeds": [1, 5]}}
    plan = Plan.read(plan_file(tmp_path, attacks=attacks))
    keys = [each.key for each in plan.sets() if each.name in ("none", "patch") and each.rate in (None, 0.1)]
    assert keys == ["none-seed1", "patch-0.1-seed1", "none-seed5", "patch-0.1-seed0"]
    assert [each.key for each in plan.sets([7], ["none"])] == ["none-seed7"]  # the command line has the last word


@pytest.mark.parametrize("name", ["dataelixir/restore", "scan/drop"])
def test_only_rivals_can_be_confined_to_the_middle_rate(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"middle_only: '{name}' is ours, or not among"):
        Plan.read(plan_file(tmp_path, middle_only=[name]))


def test_what_a_paper_takes_as_known_is_told(tmp_path: Path) -> None:
    told = {"spectral_signatures": {"rate": "share_of_class"}}
    sanitizers = {"dataelixir": ["restore"], "spectral_signatures": ["drop"]}
    plan = Plan.read(plan_file(tmp_path, sanitizers=sanitizers, told=told))
    data = toy_images(90)
    flags = (data.labels == 1) & (torch.arange(90) < 45)
    known = run.truth(Poisoned(data, flags, None, None))
    assert known == pytest.approx(
        {"share_of_set": 15 / 90, "share_of_class": 0.5, "target": 1, "share_of_target": 15 / 90}
    )
    both = torch.arange(90) < 30  # of all three classes, as by an all-to-all attack
    assert run.truth(Poisoned(data, both, None, None))["share_of_target"] == pytest.approx(10 / 90)
    assert plan.method_params("spectral_signatures", known).model_dump()["rate"] == 0.5
    own = {"spectre": {"rate": "share_of_target", "target": "target"}}
    told_both = Plan.read(plan_file(tmp_path, sanitizers={**sanitizers, "spectre": ["drop"]}, told=own))
    found = told_both.method_params("spectre", known).model_dump()
    assert (found["rate"], found["target"]) == (pytest.approx(15 / 90), 1)
    unknown = run.truth(Poisoned(data, None, None, None))
    assert plan.method_params("spectral_signatures", unknown).model_dump()["rate"] == 0.1
    assert plan.method_params("dataelixir", known) == plan.method_params("dataelixir")
    untold = Plan.read(plan_file(tmp_path, sanitizers=sanitizers))
    each = plan.sets()[1]
    changed = {cell.name for cell in each.cells if plan.cell_hash(each, cell) != untold.cell_hash(each, cell)}
    assert changed == {"spectral_signatures/drop"}
    with pytest.raises(UserError, match="told: 'spectre' is not among"):
        Plan.read(plan_file(tmp_path, told={"spectre": {"rate": "share_of_set"}}))


def test_filters_choose_and_unknown_names_are_refused(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    sets = plan.sets(seeds=[5], attacks=["patch"], rates=[0.2], sanitizers=["none"])
    assert [(s.key, [c.name for c in s.cells]) for s in sets] == [("patch-0.2-seed5", ["none/none"])]
    with pytest.raises(UserError, match="no attack 'pach'"):
        plan.sets(attacks=["pach"])
    with pytest.raises(UserError, match="no set"):
        plan.sets(attacks=["patch"], rates=[0.3])


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ("purify_data.restore.confidence=0.9", {"dataelixir/restore"}),
        ("purify_data.dataelixir.tau=2", {"dataelixir/restore", "dataelixir/drop"}),
        ("train_diffusion.layers=2", {"dataelixir/restore", "dataelixir/drop"}),
        ("purify_data.training.epochs=3", {"none/none", "dataelixir/restore", "dataelixir/drop"}),
        ("contest.attacks.patch.params.size=3", {"none/none", "dataelixir/restore", "dataelixir/drop"}),
        ("contest.attacks.none.rates=[]", set()),
        ("purify_data.method=dataelixir", set()),
        ("runtime.seed=3", set()),
    ],
)
def test_a_cell_is_known_by_the_parameters_that_concern_it(tmp_path: Path, change: str, touched: set[str]) -> None:
    path = plan_file(tmp_path)
    before, after = Plan.read(path), Plan.read(path, [change])
    pairs = zip(before.sets(attacks=["patch"]), after.sets(attacks=["patch"]), strict=True)
    found = {(s.key, c.name): before.cell_hash(s, c) == after.cell_hash(t, c) for s, t in pairs for c in s.cells}
    assert {name for (_, name), same in found.items() if not same} == touched


def test_data_with_a_name_may_lie_anywhere(tmp_path: Path) -> None:
    def hashes(*changes: str) -> set[str]:
        plan = Plan.read(plan_file(tmp_path), ["prepare_data.source=parquet", *changes])
        return plan.hashes(4)

    here, there = "prepare_data.path=here", "prepare_data.path=there"
    assert hashes(here).isdisjoint(hashes(there))
    name, other = "contest.dataset=birds", "contest.dataset=fish"
    assert hashes(here, name) == hashes(there, name)
    assert hashes(here, name).isdisjoint(hashes(here, other) | hashes(here))


@pytest.mark.parametrize(
    ("method", "touched"),
    [
        ("dataelixir", {"dataelixir/restore", "dataelixir/drop"}),
        ("badnets", {"none/none", "dataelixir/restore", "dataelixir/drop"}),
        ("spectre", set()),
    ],
)
def test_a_cell_is_known_by_the_versions_of_its_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, touched: set[str]
) -> None:
    plan = Plan.read(plan_file(tmp_path))
    each = plan.sets(attacks=["patch"])[0]

    def hashes() -> dict[str, str]:
        return {cell.name: plan.cell_hash(each, cell) for cell in each.cells}

    before = hashes()
    monkeypatch.setattr("hallmark.contest.purification.plan.VERSIONS", {method: 2})
    assert {name for name, value in hashes().items() if value != before[name]} == touched


def test_versions_are_of_methods_that_there_are() -> None:
    """A name that is none would leave figures of older code in the tables; one of both kinds would touch too many."""
    attacks, sanitizers = set(poison.registry.names()), set(methods.registry.names())
    assert VERSIONS.keys() <= attacks | sanitizers
    assert not attacks & sanitizers


@pytest.mark.parametrize(
    "name",
    ["params.yaml", "authors.yaml", "cifar10.yaml", "cifar10_full.yaml", "long_tail.yaml", "many_classes.yaml"],
)
def test_the_repositorys_plans_are_valid(name: str) -> None:
    plan = Plan.read(ROOT / "contest" / name)
    assert plan.sets()
    assert plan.runtime.threads == 1


@pytest.mark.parametrize(
    ("contest", "words"),
    [
        ({"ours": "dataelixir/drop_add_reserve"}, "not among"),
        ({"attacks": {"x": {"attack": "badnets"}}}, "at least one"),
        ({"sanitizers": {"none": ["drop"], "dataelixir": ["restore"]}}, "take it out"),
        ({"attacks": {"x": {"attack": "badnets", "rates": [0.1, 0.1]}}}, "twice"),
        # A method's own mistakes: they must neither cost hours nor count as a rival that failed.
        ({"attacks": {"x": {"attack": "badnetz", "rates": [0.1]}}}, r"attacks\.x: unknown .*'badnetz'"),
        (
            {"attacks": {"x": {"attack": "badnets", "rates": [0.1], "params": {"sise": 2}}}},
            r"attacks\.x\.params\.sise",
        ),
        (
            {"attacks": {"x": {"attack": "narcissus", "rates": [0.1], "label_mode": "all_to_all"}}},
            r"attacks\.x: poison_data\.label_mode: narcissus has clean only",
        ),
        ({"sanitizers": {"dataelixir": ["restore"], "scam": ["drop"]}}, "unknown purification method 'scam'"),
        (
            {"sanitizers": {"dataelixir": ["restore"], "spectre": ["drop"]}, "told": {"spectre": {"rat": "target"}}},
            r"contest\.told\.spectre, .*spectre\.rat",
        ),
    ],
)
def test_a_bad_plan_is_one_line(tmp_path: Path, contest: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Plan.read(plan_file(tmp_path, **contest))
    assert "\n" not in str(caught.value)


def test_a_parameter_of_a_block_that_the_file_does_not_have_can_be_set(tmp_path: Path) -> None:
    path = plan_file(tmp_path)
    assert "scan" not in PARAMS["purify_data"]
    changed = Plan.read(path, ["purify_data.scan.threshold=3.5"]).method_params("scan")
    assert changed.model_dump()["threshold"] == 3.5
    for change, words in [
        ("purify.scan.threshold=3", "no section 'purify'"),
        ("purify_data.method.x=3", r"no block 'purify_data\.method'"),
        ("contest.attacks.pach.rates=[0.1]", r"no block 'contest\.attacks\.pach'"),
        ("purify_data.scam.threshold=3", r"purify_data\.scam: unknown parameter"),
        ("purify_data.scan.treshold=3", r"purify_data\.scan\.treshold"),
    ]:
        with pytest.raises(UserError, match=words):
            Plan.read(path, [change])


@pytest.mark.parametrize("block", ["scan={treshold: 3}", "hallmrk={evidence: 3}"])
def test_a_sanitizers_block_is_checked_even_if_the_contest_does_not_run_it(tmp_path: Path, block: str) -> None:
    with pytest.raises(UserError, match=rf"purify_data\.{block.partition('=')[0]}"):
        Plan.read(plan_file(tmp_path), [f"purify_data.{block}"])


def test_detection_rates_leave_covers_out() -> None:
    flags = torch.tensor([True, True, False, False, False, False])
    covers = torch.tensor([False, False, True, False, False, False])
    changed = torch.tensor([True, False, True, True, False, False])
    scores = torch.tensor([0.9, 0.3, 5.0, 0.5, 0.1, 0.2])
    found = run.rates(flags, covers, changed, scores)
    # Of 2 x 3 pairs of a poisoned and a clean image only (0.3, 0.5) is in the wrong order.
    assert found == pytest.approx({"tpr": 1 / 2, "fpr": 1 / 3, "covers_changed": 1.0, "auc": 5 / 6})
    assert run.rates(flags, covers, changed, scores * torch.nan)["auc"] is None
    # Infinite scores are ties: 3.5 of 4 pairs and 2 of 4.
    infinite = torch.where(scores > 0.8, torch.inf, scores)
    assert run.rates(flags, None, changed, infinite)["auc"] == pytest.approx((3.5 + 2) / 8)


def test_the_contest_measures_resumes_and_shares_work(  # noqa: PLR0915 - one story, so that it trains once
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = plan_file(tmp_path), tmp_path / "one"
    options = ["--attack", "none", "--attack", "patch", "--attack", "impossible", "--rate", "0.1", "--rate", "0.5"]
    assert "18 cells, 0 measured already" in call(path, out, *options)
    rows = rows_of(out)
    assert len(rows) == 18
    assert set(rows[0]) == set(COLUMNS)
    plan = Plan.read(path)

    # An attack that fails is a row, and costs no other.
    failed = [row for row in rows if row["attack"] == "impossible"]
    assert {row["accuracy"] for row in failed} == {""}
    assert all("poison_data.rate" in row["error"] for row in failed)
    assert not [row["error"] for row in rows if row["attack"] != "impossible" and row["error"]]

    # Figures recomputed from what is kept.
    base = load_base(plan, 0, tmp_path, tmp_path / "work")
    for row in (row for row in rows if row["seed"] == "0" and row["attack"] != "impossible"):
        assert float(row["clean_accuracy"]) == pytest.approx(base.accuracy, abs=1e-6)
        assert sum(int(row[name]) for name in ("kept", "relabelled", "purified", "dropped")) == 400
        if row["attack"] == "none":
            assert row["asr"] == row["floor"] == row["tpr"] == row["target"] == ""
            assert float(row["fpr"]) == pytest.approx(1 - int(row["kept"]) / 400, abs=1e-6)
        if row["sanitizer"] == "dataelixir":
            # 2 rounds of 3 steps of 400 images, then of those that are made again.
            again = float(row["evaluations_per_image"]) * 400 / 6 - 400
            assert 0 <= again <= 400 and again == pytest.approx(round(again), abs=1e-3)
    raw = next(row for row in rows if row["attack"] == "none" and row["sanitizer"] == "none" and row["seed"] == "0")
    assert raw["accuracy"] == raw["clean_accuracy"]  # the same set, the same streams: the same model
    each = next(s for s in plan.sets() if s.key == "patch-0.1-seed0")
    suspect = run.load_suspect(plan, each, base, tmp_path / "again")
    attacked = next(row for row in rows if row["attack"] == "patch" and row["sanitizer"] == "none")
    triggered, target = suspect.poisoned.triggered, int(attacked["target"])
    assert triggered is not None
    assert not torch.equal(triggered.images, base.test.subset(base.test.labels != target).images)

    def called(networks: Iterable[Network]) -> float:
        answers = [models.logits(network, triggered.images, base.runtime).argmax(1) for network in networks]
        return float((torch.stack(answers) == target).float().mean())

    other = train_model(plan, suspect.poisoned.train, base.runtime, 1)
    assert float(attacked["asr"]) == pytest.approx(called([suspect.network, other]), abs=1e-6)
    assert float(attacked["floor"]) == pytest.approx(called(base.clean), abs=1e-6)
    assert float(attacked["floor"]) < 0.3
    assert float(attacked["asr"]) > 0.6

    # Nothing of a finished set is left in the work folder; nothing runs twice.
    assert not list((tmp_path / "work").glob("set-*"))
    ran: list[str] = []
    detect = run._detect
    monkeypatch.setattr(run, "_detect", lambda plan, name, *rest: ran.append(name) or detect(plan, name, *rest))
    assert "18 cells, 18 measured already" in call(path, out, *options)
    assert not ran
    assert rows_of(out) == rows

    # A sanitizer more: its cells alone.
    more = {"dataelixir": ["restore", "drop", "drop_add_reserve"], "spectre": ["drop"]}
    path = plan_file(tmp_path, sanitizers=more)
    assert "12 cells, 9 measured already" in call(
        path,
        out,
        *options[:4],
        "--attack",
        "impossible",
        "--rate",
        "0.1",
        "--rate",
        "0.5",
        "--seed",
        "0",
        "--sanitizer",
        "dataelixir",
    )
    assert ran == ["dataelixir", "dataelixir"]  # the clean and the patched set, for the new repair
    ran.clear()
    # A sanitizer that the data do not suit is a row as well.
    unfit = ["--set", "purify_data.spectre={target: 77}"]
    call(path, out, "--attack", "patch", "--rate", "0.1", "--seed", "0", *unfit)
    assert ran == ["spectre"]
    failed_one = next(row for row in rows_of(out) if row["sanitizer"] == "spectre")
    assert "purify_data.spectre.target" in failed_one["error"]
    assert failed_one["clean_accuracy"] == attacked["clean_accuracy"]
    assert failed_one["error"] in (out / "contest.md").read_text(encoding="utf-8")
    assert (out / "excess_asr_digits.png").read_bytes().startswith(b"\x89PNG")
    old = [row for row in without_seconds(rows_of(out)) if row["repair"] in ("none", "restore")]
    assert old == [row for row in without_seconds(rows) if row["repair"] in ("none", "restore")]

    # Cells of other parameters are left out of the table, and counted.
    output = CliRunner().invoke(
        table_main,
        ["--cells", str(out), "--out", str(tmp_path / "t"), "--params", str(path),
         "--set", "purify_data.restore.confidence=0.2", *unfit],
        catch_exceptions=False,
    ).output  # fmt: skip
    assert "6 cells of other parameters left out" in output


def test_two_workers_measure_what_one_does(tmp_path: Path) -> None:
    path = plan_file(tmp_path, middle_only=["dataelixir/drop"])
    plan = Plan.read(path)
    options = ["--attack", "patch", "--rate", "0.1", "--rate", "0.2", "--seed", "4", "--no-table"]
    assert "5 cells, 0 measured already" in call(path, tmp_path / "one", *options)
    call(path, tmp_path / "two", *options, "--jobs", "2")
    found = [
        [{k: v for k, v in row.items() if k not in SECONDS} for row in table.read([tmp_path / name], plan)[0]]
        for name in ("one", "two")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 5


def test_what_is_measured_again_is_forgotten_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = plan_file(tmp_path), tmp_path / "out"
    plan = Plan.read(path)
    one, other = plan.sets(attacks=["patch"], rates=[0.1])
    for each in (one, other):
        row = made("none", 0.9, 0.9, "none")
        cells.write_cell(cells.cells_file(each, out), each, each.cells[0], plan.cell_hash(each, each.cells[0]), row)
    monkeypatch.setattr(workers, "measure", lambda *given, **named: None)
    call(path, out, "--attack", "patch", "--rate", "0.1", "--again", "--only", one.key, "--no-table")
    assert not cells.finished(plan, one, out)
    assert cells.finished(plan, other, out)


def test_a_bug_in_a_sanitizer_is_a_row_that_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, out = Plan.read(plan_file(tmp_path)), tmp_path / "out"
    each = plan.sets(attacks=["patch"], seeds=[4])[0]
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    cells.write_cell(cells.cells_file(each, out), each, Cell("none", "none"), plan.cell_hash(each, each.cells[0]), row)
    cells.write_cell(cells.cells_file(each, out), each, each.cells[1], "", {**row, "error": "bug: ZeroDivisionError"})
    assert list(cells.finished(plan, each, out)) == ["none/none"]
    cells.forget(each, out)
    assert not cells.finished(plan, each, out)

    def broken() -> None:
        raise ZeroDivisionError("no\nimages")

    assert common.guarded(broken)[1] == common.Failure("bug: ZeroDivisionError: no images", users=False)


def made(
    sanitizer: str, asr: float | None, accuracy: float | None, repair: str = "drop", **more: Any
) -> dict[str, Any]:
    """A row by hand: floor 1 %, clean accuracy 90 %."""
    base: Mapping[str, Any] = {
        "seed": 0, "dataset": "d", "attack": "a", "label_mode": "all_to_one", "rate": 0.1, "target": 0,
        "clean_accuracy": 0.9, "floor": 0.01, "error": None if asr is not None else "it failed",
    }  # fmt: skip
    own = {"sanitizer": sanitizer, "repair": repair, "asr": asr, "accuracy": accuracy}
    return {**dict.fromkeys(COLUMNS), **base, **own, **more}


def toy_plan(folder: Path, **contest: Any) -> Plan:
    """A plan of the rows by hand: ours, strong and weak at 10 %."""
    sanitizers = {"ours": ["restore", "drop"], "weak": ["drop"], "strong": ["drop"]}
    attacks = {"none": {"attack": "none"}, "a": {"attack": "badnets", "rates": [0.1]}}
    values = {"ours": "ours/restore", "sanitizers": sanitizers, "attacks": attacks, "models": 2, "clean_models": 4}
    toy = {**PARAMS["contest"], **values}
    # Not by Plan.read, which wants sanitizers that there are.
    return replace(Plan.read(plan_file(folder)), contest=Contest.model_validate({**toy, **contest}))


def fought(rows: list[dict[str, Any]]) -> list[Duel]:
    return duels(rows, "ours/restore", lambda row: row["sanitizer"] != "ours", lambda row: ("weak/drop", "strong/drop"))


def test_claims_hold_to_the_bound_and_not_beyond() -> None:
    rows = [
        made("none", 0.5, 0.9, "none"),
        made("ours", 0.04, 0.88, "restore"),
        made("ours", 0.0401, 0.8799),
        made("theirs", None, None),
        made("none", 0.49, 0.9, "none", seed=1),
        made("ours", 0.3, 0.5, seed=1),
        made("none", None, 0.9, "none", attack="none", error=None),
        made("ours", None, 0.9, attack="none", error=None),
        made("none", None, None, "none", seed=2, label_mode="usual"),
        made("ours", None, None, seed=2, label_mode="usual"),
    ]
    held = {(c.row["seed"], c.name, c.asr_holds, c.accuracy_holds) for c in claims(rows)}
    assert held == {
        (0, "ours/restore", True, True),
        (0, "ours/drop", False, False),
        (0, "theirs/drop", False, False),
        (2, "ours/drop", False, False),  # the attack itself failed: nothing holds
    }


def test_a_duel_that_is_lost_is_said_so_and_one_with_absent_rivals_is_open(tmp_path: Path) -> None:
    assert beats(made("o", 0.1, 0.5), made("t", 0.1, 0.9))  # not higher
    assert beats(made("o", 0.2, 0.9), made("t", 0.1, 0.79))  # 10 points more success for 11 more of accuracy
    assert not beats(made("o", 0.2, 0.9), made("t", 0.1, 0.8))
    rows = [
        *(made("none", 0.49 if k == 5 else 0.5, 0.9, "none", seed=k) for k in range(6)),
        made("ours", 0.05, 0.88, "restore", asr_sd=0.06, models=4),
        made("ours", 0.0, 0.9, "drop"),
        made("weak", 0.9, 0.9),
        made("strong", 0.02, 0.87, asr_sd=0.08, models=4),
        made("ours", 0.0, 0.88, "restore", seed=1),
        made("weak", 0.9, 0.9, seed=1),
        made("ours", None, None, "restore", seed=2),
        made("weak", 0.9, 0.9, seed=2),
        made("ours", 0.0, 0.9, "restore", seed=3),
        made("weak", None, None, seed=3),
        *(made(each, asr, 0.9, repair, seed=k) for k in (4, 5)
          for each, asr, repair in (("ours", 0.0, "restore"), ("weak", 0.4, "drop"), ("strong", 0.1, "drop"))),
        made("ours", 0.9, 0.8, "restore", seed=6),
        made("weak", 0.5, 0.9, seed=6),
        # One that refuses the set has lost; one that has a bug is still to be measured.
        *(made("none", 0.9, 0.9, "none", seed=k) for k in (7, 8)),
        *(made("ours", 0.0, 0.9, "restore", seed=k) for k in (7, 8)),
        *(made("weak", 0.04, 0.95, seed=k) for k in (7, 8)),  # 4 points more success for 5 more of accuracy
        made("strong", None, None, seed=7, error="nothing is left"),
        made("strong", None, None, seed=8, error="bug: ValueError: x"),
    ]  # fmt: skip
    found = fought(rows)
    assert [(f.row["seed"], f.result, f.best["sanitizer"], tuple(map(name, f.lost_to)), f.missing) for f in found] == [
        (0, "lost", "strong", ("strong/drop",), ()),
        (1, "open", "weak", (), ("strong/drop",)),
        (2, "lost", "weak", ("weak/drop",), ("strong/drop",)),
        (4, "won", "strong", (), ()),
        (5, "no attack", "strong", (), ()),
        (6, "open", "weak", ("weak/drop",), ("strong/drop",)),  # whether the attack took hold is not known yet
        (7, "won", "weak", (), ()),
        (8, "open", "weak", (), ("strong/drop",)),
    ]
    assert [tuple(map(name, f.mutual)) for f in found] == [*[()] * 6, *[("weak/drop",)] * 2]
    text = table.render(rows, toy_plan(tmp_path), 0, {})
    unmet = "1 more, on which no rival has figures, are not listed."  # that of seed 3
    both = "On 1 of those won a rival wins as well, by the same rule turned round."  # the other one is open
    assert f"2 lost, 3 open, 2 won, 1 no attack. {both} {unmet}" in text
    assert "| d a 10 % seed 7 | won | 0.0 | 90.0 | weak/drop | 4.0 | 95.0 | 1 of 2 | - | strong/drop (failed) |" in text
    row = (
        "| d a 10 % seed 0 | **lost** | 5.0 | 88.0 | strong/drop | 2.0 | 87.0 | 2 of 2 | strong/drop (+3.0 ± 5.0) | - |"
    )
    assert row in text
    row = "| d a 10 % seed 2 | **lost** | - | - | weak/drop | 90.0 | 90.0 | 1 of 2 | weak/drop | strong/drop |"
    assert row in text
    assert "it failed" in text
    # The other repair of ours has its own duels, and is a rival of ours in none of the others.
    assert "| d a 10 % seed 0 | won | 0.0 | 90.0 | strong/drop | 2.0 | 87.0 | 2 of 2 | - | - |" in text
    repairs = text.partition("### ours/restore against its other repairs, row by row")[2].partition("##")[0]
    assert (
        "| d a 10 % seed 0 | **lost** | 5.0 | 88.0 | ours/drop | 0.0 | 90.0 | 1 of 1 | ours/drop (+5.0) | - |"
        in repairs
    )
    assert "weak" not in repairs


def test_means_over_the_seeds_are_of_what_all_seeds_have(tmp_path: Path) -> None:
    rows = [
        *(made("none", 0.9, 0.9, "none", seed=k) for k in range(2)),
        made("ours", 0.02, 0.88, "restore"),
        made("ours", 0.08, 0.90, "restore", seed=1, floor=0.03),
        made("strong", 0.0, 0.9),
        made("weak", 0.5, 0.7),
        made("weak", 0.5, 0.8, seed=1),
        made("lame", 0.1, 0.7),
        made("lame", None, None, seed=1),
    ]
    found = {row["sanitizer"]: row for row in averages(rows)}
    assert set(found) == {"none", "ours", "weak", "lame"}  # strong was not measured at the other seed
    ours = found["ours"]
    assert (ours["seed"], ours["seeds"]) == (None, 2)
    assert (ours["asr"], ours["accuracy"], ours["floor"]) == pytest.approx((0.05, 0.89, 0.02))
    assert ours["excess_se"] == pytest.approx(0.02)  # 1 and 5 points: sample deviation 2.83, by the root of 2
    assert found["lame"]["asr"] is None
    (held,) = [claim for claim in claims(list(found.values())) if claim.name == "ours/restore"]
    assert held.asr_holds  # 3 points in the mean, though 5 at one seed
    text = table.render(rows, toy_plan(tmp_path), 0, {})
    assert "| d a 10 % | 2 | 90.0 ± 0.0 | 1.0 ± 0.0 | 0.0 ± 0.0 |" in text  # nothing is done
    assert "| d a 10 % (2 seeds) | 90.0 | 5.0 | 2.0 | 3.0 ± 2.0 | 1.0 | yes | yes |" in text
    assert "| d a 10 % (2 seeds) | open | 5.0 | 89.0 | weak/drop | 50.0 | 75.0 | 1 of 2 | - | strong/drop |" in text
    # A mean of fewer seeds than the line has says so: 20 and 10 points lost, or 20 at one seed alone.
    (line,) = [line for line in text.partition("**Benign accuracy lost")[2].splitlines() if line.startswith("| a |")][
        :1
    ]
    assert line == "| a | 0.0 ± 0.0 | 1.0 ± 1.4 | 20.0 (1) | 0.0 (1) | 15.0 ± 7.1 |"


def test_repairs_are_compared_set_by_set(tmp_path: Path) -> None:
    rows = [
        *(made("none", 0.4 if k == 2 else 0.9, 0.9, "none", seed=k) for k in range(4)),
        made("ours", 0.01, 0.90, "restore"),
        made("ours", 0.03, 0.89, "drop"),
        made("ours", 0.02, 0.80, "restore", seed=1),
        made("ours", 0.02, 0.83, "drop", seed=1),
        made("ours", 0.50, 0.90, "restore", seed=2),  # no attack: its success says nothing
        made("ours", 0.10, 0.90, "drop", seed=2),
        made("ours", 0.50, 0.10, "restore", seed=3),  # no pair
        made("ours", None, None, "drop", seed=3),
        made("weak", 0.50, 0.10),
        *(made("ours", None, 0.9, repair, attack="none", rate=None) for repair in ("restore", "drop")),  # no attack
    ]
    found = difference(rows, "ours/restore", "ours/drop")
    assert found is not None
    assert (found.sets, found.took_hold) == (3, 2)
    # +1, -3 and 0 points, -2 and 0 points: deviations by the root of how many.
    assert (found.accuracy, found.accuracy_se) == pytest.approx((-0.02 / 3, (13 / 90000) ** 0.5))
    assert (found.asr, found.asr_se) == pytest.approx((-0.01, 0.01))
    assert difference(rows, "ours/restore", "strong/drop") is None
    one = difference(rows, "ours/restore", "weak/drop")
    assert one is not None
    assert (one.accuracy_se, one.asr_se) == (None, None)
    text = table.render(rows, toy_plan(tmp_path), 0, {})
    assert "| ours/drop | all | 3 | -0.67 ± 1.20 | 2 | -1.00 ± 1.00 |" in text
    assert "| ours/drop | 10 % | 3 | -0.67 ± 1.20 | 2 | -1.00 ± 1.00 |" in text


def test_a_failed_seed_has_no_mean_whatever_its_label_mode() -> None:
    rows = [*(made("ours", 0.0, 0.9, seed=k) for k in range(2)), made("ours", None, None, seed=2, label_mode="usual")]
    (mean,) = averages(rows)
    assert (mean["asr"], mean["seeds"], mean["error"]) == (None, 3, None)
    # What failed at every seed has failed, unless one of the failures is a bug, which is to be mended.
    failed = [made("ours", None, None, seed=k) for k in range(2)]
    assert averages(failed)[0]["error"] == "it failed"
    bug = made("ours", None, None, seed=2, error="bug: ValueError: x")
    assert averages([*failed, bug])[0]["error"] == "bug: ValueError: x"


def test_rows_of_a_set_that_was_made_twice_do_not_compare(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    each = plan.sets(attacks=["patch"], seeds=[4])[0]
    file = cells.cells_file(each, tmp_path)
    rows = [made("none", 0.9, 0.9, "none"), made("dataelixir", 0.1, 0.9, "restore"), made("lost", None, None)]
    rows[2]["clean_accuracy"] = None  # the set could not be made
    for cell, row in zip(each.cells, rows, strict=False):
        cells.write_cell(file, each, cell, plan.cell_hash(each, cell), row)
    assert set(cells.finished(plan, each, tmp_path)) == {cell.name for cell in each.cells}
    check_one_run(rows)
    rows[1]["floor"] = 0.02
    cells.write_cell(file, each, each.cells[1], plan.cell_hash(each, each.cells[1]), rows[1])
    assert cells.finished(plan, each, tmp_path) == {}
    with pytest.raises(UserError, match=r"the cells of a, .* seed 0 come from different runs"):
        check_one_run(rows)
    rows[1]["seed"] = 1
    check_one_run(rows)


def test_arithmetic_of_the_table(tmp_path: Path) -> None:
    row = made("ours", 0.25, 0.85, detect_seconds=2.0, repair_seconds=None)
    assert table.excess(row) == pytest.approx(0.24)
    assert table.loss(row) == pytest.approx(0.05)
    assert table.seconds(row) == 2
    assert table.excess(made("ours", None, None)) is None
    assert table.mean_spread([1, 2, 3]) == "2.0 ± 1.0"
    assert table.mean_spread([1.25]) == "1.2"
    assert table.mean_spread([]) == "-"
    assert table.mean_spread([-0.04]) == "0.0"
    two = [made("ours", 0.11, 0.9), made("ours", 0.31, 0.9, seed=1)]
    plan = toy_plan(tmp_path)
    # Excesses of 10 and 30 points: mean 20, sample standard deviation 14.1.
    assert "| a | 20.0 ± 14.1 |" in table.render(two, plan, 0, {})
    # Of five models and four of the floor: 0.04 / root 5 and 0.02 / root 4.
    single = made("ours", 0.25, 0.85, asr_sd=0.04, floor_sd=0.02, models=5)
    assert fights.standard_error(single, plan) == pytest.approx(math.hypot(0.04 / math.sqrt(5), 0.01))
    assert fights.standard_error({**single, "models": 2}, plan) is None
    assert fights.standard_error(row, plan) is None


def test_a_cell_that_is_older_than_a_column_is_read(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    row = made("ours", 0.25, 0.85)
    old = {column: value for column, value in row.items() if column != "covers_changed"}
    artifacts.write_json(tmp_path / "cells/x.json", {"cells": {"a/b": {"hash": "", "row": old}}})
    assert table.read([tmp_path / "cells"], plan) == ([{**row, "covers_changed": None}], 0)
    del old["asr"]  # was always there
    artifacts.write_json(tmp_path / "cells/x.json", {"cells": {"a/b": {"hash": "", "row": old}}})
    with pytest.raises(UserError, match="not a file of cells"):
        table.read([tmp_path / "cells"], plan)


def test_damaged_cells_are_one_line(tmp_path: Path) -> None:
    plan = Plan.read(plan_file(tmp_path))
    artifacts.write_json(tmp_path / "cells/x.json", {"cells": {"a/b": {"hash": ""}}})
    with pytest.raises(UserError, match="not a file of cells"):
        table.read([tmp_path / "cells"], plan)
    with pytest.raises(UserError, match="run the contest first"):
        table.write([tmp_path / "nowhere"], tmp_path, plan)
    for file in ("a", "b"):
        artifacts.write_json(
            tmp_path / f"twice/{file}.json", {"cells": {"a/b": {"hash": "", "row": made("ours", 0.2, 0.8)}}}
        )
    with pytest.raises(UserError, match=r"b\.json: .*a\.json holds one of its cells as well"):
        table.read([tmp_path / "twice"], plan)


def test_the_dvc_stages_are_whole_and_apart_from_the_pipeline() -> None:
    stages = load_yaml("contest/dvc.yaml")["stages"]
    assert not set(stages) & set(load_yaml("dvc.yaml")["stages"])
    needed = closure(MODULES["hallmark.contest.purification.command"]) | closure(
        MODULES["hallmark.contest.purification.command_table"]
    )
    files = {MODULES[module].relative_to(ROOT).as_posix() for module in needed}
    deps = [dep for dep in stages["contest"]["deps"] if dep.startswith("src/")]
    assert not {file for file in files if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)}
    # A stage runs again if anything changes that the hash of one of its cells depends on.
    (listed,) = stages["contest"]["params"][0].values()
    known = {name.partition(".")[2] for name in listed if name.startswith("contest.")}
    assert known == {*load_yaml("contest/params.yaml")["contest"], "attacks.${item.attack}"} - {"attacks", "ours"}
    assert {*Plan.SECTIONS, "runtime", "prepare_data"} - {"contest"} <= {*listed}
    for stage in stages.values():
        outs = [next(iter(out)) for out in stage["outs"]]
        words = [word for word in stage["cmd"].split() if word.startswith(("data/", "docs/"))]
        assert words
        assert all(
            any(path == word or path.startswith(f"{word}/") for path in [*stage["deps"], *outs]) for word in words
        )
