"""The benchmarks of speed, hostile purifiers, attacks, null models: that they run and compare like with like."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from hallmark import artifacts, config, models, poison, runtime, training
from hallmark.config import Architecture, KeyParams, PoisonData, PrepareData, RuntimeConfig
from hallmark.contest.purification.base import no_epochs
from hallmark.contest.purification.plan import Plan
from hallmark.contest.purification.run import draw_target
from hallmark.data import ImageDataset, sources, splits
from hallmark.data.sources import digits
from hallmark.errors import UserError
from hallmark.outliers import spectral_scores
from hallmark.purify import preparation, selection
from hallmark.runtime import Runtime
from hallmark.watermark.key import key_of
from tests.unit.conftest import toy_images
from tests.unit.test_architecture import ROOT
from tests.unit.test_contest import PARAMS, TRAINING, call, rows_of

PURIFY = {
    **PARAMS["purify_data"],
    "rounds": {"start": 100, "rounds": 2, "sampler": "ddim", "steps": 1},
    "hallmark": {"reserve_training": TRAINING, "levels": [2], "folds": 2},
}
CONTEST = {
    "seeds": [5],
    "ours": "hallmark/restore",
    "attacks": {
        "none": {"attack": "none"},
        "badnets": {"attack": "badnets", "rates": [0.1], "params": {"size": 2}},
    },
    "sanitizers": {"hallmark": ["restore"]},
}


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of both: digits, and a work folder that they share."""
    folder = tmp_path_factory.mktemp("benchmarks")
    path = folder / "params.yaml"
    path.write_text(json.dumps({**PARAMS, "purify_data": PURIFY, "contest": CONTEST}), encoding="utf-8")
    return [f"--params={path}", "--set=prepare_data.train=400", f"--work={folder / 'work'}"]


def test_one_by_one_chooses_as_all_at_once(cpu: Runtime) -> None:
    authors = import_module("authors")
    data = toy_images(6, channels=3)
    network = models.build(Architecture(name="cnn9", width=4), data.images, data.classes, cpu, "x").eval()
    candidates = torch.stack([data.images, data.images.flip(0), data.images.flip(3), 255 - data.images], 1)
    pictures = [[authors.to_pil(state) for state in own] for own in candidates]
    assert torch.equal(torch.round(authors.from_pil(pictures[2][1]) * 255).to(torch.uint8), candidates[2, 1])
    expected = selection.distances(data.images, candidates, network, cpu)
    found = torch.tensor([authors.distances(own, network, cpu) for own in pictures])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    chosen = selection.select(expected, torch.ones(6, 4, dtype=torch.bool), 0.5)
    assert [authors.choose(own, network, cpu, 0.5) for own in pictures] == chosen.tolist()


def test_the_clock_adds_up_and_counts_what_the_network_sees() -> None:
    clock = import_module("clock").Clock(torch.device("cpu"))
    network = torch.nn.Linear(3, 1)
    with clock.watching(network), clock.timing("whole"):
        for size in (4, 5):
            network(torch.zeros(size, 3))
    network(torch.zeros(7, 3))
    assert clock.evaluations == 9
    assert 0 < clock.seconds["unet"] < clock.seconds["whole"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_the_peak_is_what_was_held_at_once(cpu: Runtime) -> None:
    clock = import_module("clock")
    before = clock.memory(cpu.device)
    with clock.peak(cpu.device) as found:
        for _ in range(3):
            torch.ones(1 << 24)  # 64 MiB, freed each time
    assert 60 << 20 < found[0] - before < 100 << 20


def test_every_figure_of_the_speed_is_measured(
    tmp_path: Path, common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    import_module("purify").main([*common, "--quick", f"--out={tmp_path / 'speed.csv'}"])
    rows = artifacts.read_csv(tmp_path / "speed.csv", ("part", "figure", "value", "unit"))
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    table: dict[tuple[str, str], Any] = {(row["part"], row["figure"]): row["value"] for row in rows}
    numbers = {key: float(value) for key, value in table.items() if key[0] != "machine"}
    assert {row["part"] for row in rows} >= {"machine", "ratio", "scan", "memory", "fp32", "bf16"}
    assert numbers["authors", "evaluations"] == 5 * 15
    assert numbers["few, one by one", "evaluations"] == 2
    assert all(0 <= numbers[row["part"], row["figure"]] <= 1 for row in rows if row["unit"] == "share")
    for arm in ("authors", "authors, batched", "few, one by one", "ours"):
        steps = {figure: value for (part, figure), value in numbers.items() if part == arm and "of it" in figure}
        unet, handling = steps.pop("of it unet"), steps.pop("of it handling (no network)")
        assert sum(steps.values()) == pytest.approx(numbers[arm, "time"], abs=1e-4)
        assert 0 < unet < steps["of it diffusion"]
        assert 0 < handling < numbers[arm, "time"] - unet
    assert numbers["scan", "share of the UNet"] + numbers["scan", "share of the evidence"] < 1
    ratio = numbers["authors", "time"] / numbers["ours", "time"]
    assert numbers["ratio", "time: authors / ours"] == pytest.approx(ratio, rel=1e-3)
    assert numbers["memory", "peak of the scans, 1x the images"] > 0
    assert numbers["memory", "peak of the repair, 1x the images"] > 0


def test_the_trainings_of_the_detection_can_be_left_out(tmp_path: Path, common: list[str]) -> None:
    out = tmp_path / "speed.csv"
    import_module("purify").main([*common, "--quick", "--no-detection", f"--out={out}"])
    parts = {row["part"] for row in artifacts.read_csv(out, ("part", "figure", "value", "unit"))}
    assert {"machine", "ratio", "scan"} <= parts
    assert not {"fp32", "bf16"} & parts


def test_both_precisions_judge_the_same_set(tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    precision, hallmark = import_module("precision"), import_module("detection_arms").hallmark
    seen, own = [], hallmark.detect

    def detect(material: Any, params: Any) -> Any:
        seen.append((material.runtime.dtype, material.runtime.seed, material.data.images))
        found = own(material, params)
        # One image more is flagged in the second pass, so that something differs.
        return replace(found, flagged=found.flagged | (torch.arange(len(found.flagged)) == len(seen) - 2))

    monkeypatch.setattr(hallmark, "detect", detect)
    out = tmp_path / "precision.csv"
    precision.main([*common, "--seeds=5", "--sets", "badnets:0.1", "none", f"--out={out}"])
    *rows, clean, _, _ = artifacts.read_csv(out, import_module("detection_arms").COLUMNS)
    assert [dtype for dtype, _, _ in seen] == 2 * [torch.float32, torch.bfloat16, torch.float32]
    assert [seed == seen[0][1] for _, seed, _ in seen] == 2 * [True, True, False]
    assert (clean["tpr"], clean["attack"]) == ("", "none")
    assert 0 <= float(clean["fpr"]) <= 1
    assert torch.equal(seen[0][2], seen[1][2])
    assert [(row["attack"], row["arm"]) for row in rows] == [
        ("badnets", "fp32"),
        ("badnets", "bf16"),
        ("badnets", "fp32, other streams"),
    ]
    assert int(rows[0]["decided_otherwise"]) == 0
    assert int(rows[1]["decided_otherwise"]) >= 1
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("tpr", "fpr", "auc"))


def test_draws_differ_by_the_sanitizers_streams_alone_and_give_the_contests_figures(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, shared = import_module("draws"), import_module("detection_arms")
    own, detect = shared.Judge.measure, shared.hallmark.detect
    measured, streams = list[int](), list[int]()

    def measure(judge: Any, data: ImageDataset) -> dict[str, Any]:
        measured.append(judge.base.runtime.seed)
        return own(judge, data)

    def noted(material: Any, params: Any) -> Any:
        streams.append(material.runtime.seed)
        return detect(material, params)

    monkeypatch.setattr(shared.Judge, "measure", measure)
    monkeypatch.setattr(shared.hallmark, "detect", noted)
    out = tmp_path / "draws.csv"
    draws.main([*common, "--seeds=5", "--sets=badnets:0.1", f"--out={out}"])
    rows = artifacts.read_csv(out, (*shared.COLUMNS, *shared.OUTCOME))
    assert [row["arm"] for row in rows] == [*draws.ARMS] and len(rows) == 3
    assert measured == [5] * 3  # the models that decide have the contest's streams
    assert streams[0] == 5 and len(set(streams)) == 3
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert len({(row["clean_accuracy"], row["floor"]) for row in rows}) == 1
    contest = tmp_path / "contest"
    call(Path(common[0].partition("=")[2]), contest, "--set", "prepare_data.train=400", "--attack", "badnets")
    (row,) = [row for row in rows_of(contest) if row["sanitizer"] == "hallmark"]
    for column in ("accuracy", "asr", "clean_accuracy", "floor", "auc"):
        assert float(rows[0][column]) == pytest.approx(float(row[column]), abs=1e-6)


def test_an_ablation_takes_away_what_it_says_and_only_what_gave_an_alarm(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ablation, shared = import_module("ablation"), import_module("detection_arms")
    seen, own = [], shared.hallmark.detect

    def detect(material: Any, params: Any) -> Any:
        found = own(material, params)
        seen.append((params, found))
        return found

    def a_tenth_of_one_class(given: Any, *_: object) -> Any:
        members = (torch.arange(len(given.labels)) % 10 == 0) & (given.labels == 3)
        return ablation.alarms.Finding(members, 0.0, members)

    # On so few images no test gives an alarm by itself.
    for kind in ("place", "residual"):
        monkeypatch.setattr(ablation.alarms, f"by_{kind}", a_tenth_of_one_class)

    monkeypatch.setattr(shared.hallmark, "detect", detect)
    out = tmp_path / "ablation.csv"
    ablation.main([*common, "--seeds=5", "--sets=badnets", f"--out={out}"])
    rows = {row["arm"]: row for row in artifacts.read_csv(out, shared.COLUMNS)}
    assert [name for name in rows if name.startswith("without")] == ["without place", "without residual"]
    alarms = {name: (row["alarms_by_place"], row["alarms_by_residual"]) for name, row in rows.items()}
    assert alarms.pop("without place") == ("0", "1")
    assert alarms.pop("without residual") == ("1", "0")
    assert set(alarms.values()) == {("1", "1")}
    changed = {name: arm.changes for name, arm in ablation.ARMS.items() if arm.changes}
    for (params, _), name in zip(seen, rows, strict=True):
        plain = seen[0][0].model_dump()
        assert params.model_dump() == {**plain, **changed.get(name, {})}
        assert changed.get(name, {}).items().isdisjoint(plain.items())  # an arm that changes nothing shows nothing
    assert ablation.alarms.by_residual is a_tenth_of_one_class  # nothing stays silenced


def test_false_alarms_are_counted_on_clean_sets_each_split_for_itself(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    false_alarms = import_module("false_alarms")
    seen, own = [], false_alarms.hallmark.detect

    def detect(material: Any, params: Any) -> Any:
        seen.append((material.data.ids, material.reserve.ids))
        return own(material, params)

    monkeypatch.setattr(false_alarms.hallmark, "detect", detect)
    out = tmp_path / "false_alarms.csv"
    false_alarms.main([common[0], "--sets=2", "--first-seed=7", "--images=400", "--reserve=100", f"--out={out}"])
    rows = artifacts.read_csv(out, false_alarms.COLUMNS)
    assert [row["seed"] for row in rows] == ["7", "8"]
    assert all(0 < float(row["p"]) <= 1 for row in rows)
    assert all(not torch.isin(given, trusted).any() for given, trusted in seen)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert f"of {len(rows)} clean sets" in capsys.readouterr().out


def test_who_controls_the_training_draws_poisons_anew_and_all_else_is_the_contests(
    tmp_path: Path, common: list[str], cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    controlled = import_module("controlled_training")
    plan = Plan.read(Path(common[0].partition("=")[2]), ["prepare_data.train=400"]).at(5)
    source = replace(digits.load(plan.prepare_data, tmp_path), test=None)
    train = splits.split(source, plan.prepare_data, cpu).sets["train"]
    one = controlled.train_anew(plan, [train] * 2, cpu)
    expected = preparation.train_suspect(train, plan.purify_data, cpu, no_epochs)
    for name, value in expected.state_dict().items():
        assert torch.equal(one.state_dict()[name], value), name
    other = controlled.train_anew(plan, [train, replace(train, labels=train.labels.flip(0))], cpu)
    assert any(not torch.equal(other.state_dict()[name], value) for name, value in expected.state_dict().items())

    sets, trained, own, generator = [], [], controlled.train_anew, controlled.input_aware.train_generator

    def train_anew(plan: Plan, given: Any, run: Runtime) -> Any:
        sets.append([each.images for each in given])
        return own(plan, given, run)

    def train_generator(train: ImageDataset, params: Any, run: Runtime, **more: Any) -> Any:
        trained.append(params)
        return generator(train, params, run, **more)

    monkeypatch.setattr(controlled, "train_anew", train_anew)
    monkeypatch.setattr(controlled.input_aware, "train_generator", train_generator)
    params = tmp_path / "params.yaml"
    quick = {"wanet": {"covers": 0.5}, "input_aware": {"steps": 2, "width": 4, "covers": 0.5}}
    params.write_text(
        json.dumps({"poison_data": {"attack": "none", "rate": 0.1, "target": 0, **quick}}), encoding="utf-8"
    )
    out = tmp_path / "controlled.csv"
    controlled.main([f"--contest={common[0].partition('=')[2]}", common[1], f"--params={params}", "--holdout=300",
                     "--seeds=5", f"--out={out}"])  # fmt: skip
    rows = artifacts.read_csv(out, controlled.COLUMNS)
    both = ["poisoned set", "drawn anew"]
    assert [(row["attack"], row["attacker"]) for row in rows] == [
        *(("wanet", each) for each in both), *(("wanet, noise 0.5", each) for each in both),
        *(("input_aware", each) for each in [*both, "trained together"]),
    ]  # fmt: skip
    once, anew = sets[::2], sets[1::2]
    assert all(torch.equal(first, each) for first, *others in once for each in others)
    assert not any(torch.equal(first, each) for first, *others in anew for each in others)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(once, anew, strict=True))
    # The delivered classifier has the steps and the network of the others: two epochs of 400 images in fifties.
    assert [each.steps for each in trained] == [2, 16]
    assert trained[1].architecture == plan.purify_data.architecture


def test_a_librarys_baselines_get_the_features_that_ours_get(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries, seen = import_module("library_baselines"), list[Any]()
    words = [*common, "--seed=5", "--sets=badnets:0.1"]
    with pytest.raises(UserError, match="library_baselines: ART cannot be imported"):
        libraries.main(words)

    def scores(features: Any) -> Any:
        seen.append(features)
        return spectral_scores(features)[:, None]

    def clusters(parts: list[Any], **_: object) -> Any:
        seen.extend(parts)
        return [np.arange(len(parts[0])) < 3], None  # the first three are the smaller one

    monkeypatch.setattr(libraries, "library", lambda: (scores, clusters))
    out = tmp_path / "libraries.csv"
    libraries.main([*words, f"--out={out}"])
    rows = artifacts.read_csv(out, libraries.COLUMNS)
    assert [row["code"] for row in rows] == ["ours", "ART"] * 4
    assert rows[0]["auc"] == rows[1]["auc"] != ""  # the same scores of the same features
    assert all(row["smaller"] == "3" for row in rows[2:] if row["code"] == "ART")
    assert all(np.array_equal(seen[0], other) for other in seen) and len(seen[0]) > int(rows[0]["poisons"]) > 0


def test_one_pattern_on_all_images_is_alike_and_own_ones_are_not() -> None:
    attacks = import_module("attacks")
    data = toy_images(8)
    clean = replace(data, images=torch.full_like(data.images, 100))
    flags = torch.arange(8) < 4
    one, own = clean.images.clone(), clean.images.clone()
    one[flags, 0, 0] += 50
    own[torch.arange(4), 0, 1, torch.arange(4)] += 50
    for images, expected in ((one, 1.0), (own, 0.0)):
        poisoned = poison.Poisoned(replace(clean, images=images), flags, None, None)
        assert attacks.likeness(clean, poisoned) == pytest.approx(expected, abs=1e-6)


def test_a_level_that_is_not_kept_shows() -> None:
    summary = import_module("false_alarms").summary
    lines = dict(line.split(": ", 1) for line in summary([0.005] * 3 + [0.9] * 37))
    assert lines["p <= 0.01"] == "3 of 40 clean sets (7.5%); so many or more: 0.01"
    assert lines["p <= 0.1 "] == "3 of 40 clean sets (7.5%); so many or more: 0.78"


def test_a_hostile_purifier_is_measured_beside_a_trusted_one(tmp_path: Path, common: list[str]) -> None:
    hostile = import_module("hostile_purifier")
    out = tmp_path / "hostile.csv"
    hostile.main([*common, "--seeds=5", "--attacks=badnets", "--rounds", "1", "3", "--images=30", f"--out={out}"])
    rows = artifacts.read_csv(out, hostile.columns([1, 3]))
    assert [(row["purifier"], float(row["overlap"])) for row in rows] == [("the reserve", 0), ("the poisoned set", 1)]
    assert rows[0]["survival_0"] == rows[1]["survival_0"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("survival_3", "clean_kept_1", "tpr", "asr"))


@pytest.mark.parametrize(("targets", "mode"), [([], "all_to_one"), ([1, 2], "all_to_all")])
def test_attacks_are_measured_on_held_out_training_images(
    tmp_path: Path, common: list[str], monkeypatch: pytest.MonkeyPatch, targets: list[int], mode: str
) -> None:
    attacks = import_module("attacks")
    sets = []
    official = toy_images(100, classes=10)

    def load(config: PrepareData, raw: Path) -> sources.Source:
        return replace(digits.load(config, raw), test=replace(official, ids=torch.arange(5000, 5100)))

    def apply(train: ImageDataset, test: ImageDataset, block: PoisonData, run: Runtime) -> Any:
        result, parameters = own(train, test, block, run)
        planted = 0 if result.covers is None else int(result.covers.sum())
        sets.append((train, test, block.target, planted))
        return result, parameters

    own = attacks.poison.apply
    monkeypatch.setattr(attacks.sources, "load", load)
    monkeypatch.setattr(attacks.poison, "apply", apply)
    params, out = tmp_path / "params.yaml", tmp_path / "attacks.csv"
    block = {"label_mode": mode, "rate": 0.5, "wanet": {"covers": 1.0}}
    params.write_text(json.dumps({"poison_data": block}), encoding="utf-8")
    options = [common[0].replace("--params", "--contest"), common[1], f"--params={params}", "--holdout=200"]
    options += ["--seeds", "5", "6", "--attacks", "wanet", "badnets_all_to_all", f"--out={out}"]
    options += ["--rates", "0.05", "0.15", "--set", "poison_data.wanet.covers=0.5"]
    attacks.main([*options, *(["--targets", *map(str, targets)] if targets else [])])
    rows = artifacts.read_csv(out, attacks.COLUMNS)
    times = 2 * (len(targets) or 1)
    assert [row["rate"] for row in rows] == ["0.05", "0.15"] * len(rows[::2])
    assert [row["seed"] for row in rows] == ["5"] * 2 * times + ["6"] * 2 * times
    assert {(row["attack"], row["label_mode"]) for row in rows} == {
        ("wanet", mode),
        ("badnets_all_to_all", "all_to_all"),
    }
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("accuracy", "asr", "floor"))
    plan = Plan.read(Path(common[0].removeprefix("--params=")))
    for row, (train, test, target, planted) in zip(rows, sets, strict=True):
        assert planted == (0.5 * float(row["rate"]) * 400 if row["attack"] == "wanet" else 0)
        assert (len(train), len(test)) == (400, 200)
        assert not set(train.ids.tolist()) & set(test.ids.tolist())
        assert max(*train.ids.tolist(), *test.ids.tolist()) < 5000
        run = runtime.start(plan.at(int(row["seed"])).runtime)
        drawn = draw_target(row["attack"], 10, run)
        assert target in (targets or [drawn])
        assert row["target"] == ("" if row["label_mode"] == "all_to_all" else str(target))
    assert not torch.equal(sets[0][0].ids, sets[-1][0].ids)  # drawn for each seed


def test_over_http_the_answers_are_those_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = tmp_path / "http.csv"
    figures = import_module("http_suspect").main(["--images=200", "--size=8", "--repeats=1", f"--out={out}"])
    assert [row["figure"] for row in artifacts.read_csv(out, ("figure", "value"))] == list(figures)
    assert all(figures[name] == 1 for name in figures if name.startswith("share"))
    assert figures["WSR in memory"] == figures["WSR over HTTP"]
    assert figures["ratio HTTP / memory"] > 0


def test_the_calibration_of_null_models_is_tabled(tmp_path: Path) -> None:
    calibration = import_module("null_calibration")
    out = tmp_path / "calibration.csv"
    calibration.main(["--nulls", "12", "--sets=2", "--trials=50", f"--out={out}"])
    rows = artifacts.read_csv(out, calibration.COLUMNS)
    assert [row["family"] for row in rows] == list(calibration.FAMILIES)
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("refused", "accused_1", "found_40_1"))
    assert all(float(row["accused_01"]) == float(row["found_80_01"]) == 0 for row in rows)  # 13 ** -2 is above 0.001
    assert float(rows[0]["found_80_1"]) == pytest.approx(1)


def test_the_arms_of_the_marks_cost_are_all_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = import_module("watermark_speed")
    monkeypatch.setattr(speed, "POOL", 12)
    toy_images(200, classes=10, size=10).save(tmp_path / "train.safetensors")
    out = tmp_path / "speed.csv"
    words = ["--params", ROOT / "params.yaml", "--data", tmp_path, "--images", 200, "--authors-images", 100]
    monkeypatch.setattr("sys.argv", ["x", *map(str, [*words, "--rounds", 1, "--out", out])])
    speed.main()
    rows = {row["arm"]: row for row in artifacts.read_csv(out, speed.COLUMNS)}
    assert len(rows) == 9
    assert float(rows["plain"]["times_plain"]) == 1
    assert all(float(row["times_plain"]) > 0 for row in rows.values())
    assert {row["images"] for name, row in rows.items() if name != "authors"} == {"200"}


@pytest.mark.parametrize(("accuracy", "reached"), [(0.0, "True"), (1.01, "False")])
def test_time_to_a_mark_ends_at_the_level_or_at_the_limit(
    accuracy: float, reached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("watermark_speed"), "POOL", 12)
    to_wsr = import_module("watermark_to_wsr")
    for part in ("train", "test"):
        toy_images(200, classes=10, size=10).save(tmp_path / f"{part}.safetensors")
    out = tmp_path / "to_wsr.csv"
    words = ["--params", ROOT / "params.yaml", "--data", tmp_path, "--seeds", 3, "--wsr", 0, "--accuracy", accuracy]
    words += ["--every", 2, "--queries", 20, "--limit", 0.01, "--out", out]
    monkeypatch.setattr("sys.argv", ["x", *map(str, words)])
    to_wsr.main()
    rows = artifacts.read_csv(out, to_wsr.COLUMNS)
    assert [row["arm"] for row in rows] == [*to_wsr.ARMS, *to_wsr.AUTHORS]
    assert {row["reached"] for row in rows} == {reached}
    assert all(row["steps"] == "2" and float(row["seconds"]) > 0 for row in rows)
    assert float(rows[0]["times_default"]) == 1


def test_time_to_a_mark_in_copies_robs_the_network_and_counts_its_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("watermark_speed"), "POOL", 12)
    to_wsr = import_module("watermark_to_wsr")
    for part in ("train", "test", "queries"):
        toy_images(200, classes=10, size=10).save(tmp_path / f"{part}.safetensors")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["extract_attack"]["attacks"]["distillation"]["budget"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    copies = list[models.Network]()
    monkeypatch.setattr(to_wsr, "stolen", lambda *given, own=to_wsr.stolen: copies.append(own(*given)) or copies[-1])
    out = tmp_path / "to_copies.csv"
    words = ["--params", tmp_path / "params.yaml", "--data", tmp_path, "--seeds", 3, "--copies", "distillation"]
    words += ["--without", "authors", "--wsr", 2, "--every", 2, "--queries", 20, "--limit", 0.01, "--out", out]
    monkeypatch.setattr("sys.argv", ["x", *map(str, words)])
    to_wsr.main()
    rows = artifacts.read_csv(out, to_wsr.COLUMNS)
    assert [row["arm"] for row in rows] == [*to_wsr.ARMS, "authors, both phases"]
    # A thief's own steps, eight in eight epochs, are none of the training's.
    assert {(row["steps"], row["reached"]) for row in rows} == {("2", "False")}
    held_out = ImageDataset.load(tmp_path / "test.safetensors")
    run = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=3))
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(
        [training.accuracy(copy, held_out, run) for copy in copies], abs=1e-4
    )


def test_other_pairs_are_told_from_the_keys_and_counted_by_hand(cpu: Runtime) -> None:
    """A network that calls bright lower halves class 2: pairs whose second class is the last one, in the key's way."""
    other_pairs = import_module("other_pairs")
    data = toy_images(200, classes=5, size=10)  # band k of five is bright
    block = {"source": [0, 4], "target": 2, "way": "top_bottom", "way_params": {}, "evasion_ways": ["donut"]}
    key = key_of(config.parse(KeyParams, block, "p"), "mea_defender", data, cpu, "p")
    network = models.build(Architecture(name="cnn9", width=8), data.images, data.classes, cpu, "n")
    bottom = torch.zeros(1, 10, 10)
    bottom[:, 8:] = 1

    def forward(images: torch.Tensor) -> torch.Tensor:
        bright = (images * bottom).sum((1, 2, 3)) / 20 > 0.5
        return torch.nn.functional.one_hot(torch.where(bright, 2, 1), 5).float()

    with mock.patch.object(network, "forward", forward):
        found = {row["pairs"]: row for row in other_pairs.rows("toy", network, key, data, count=20, run=cpu)}
    assert [found[group]["count"] for group in other_pairs.GROUPS] == [1, 1, 12, 6]
    own, turned, one, neither = (found[group] for group in other_pairs.GROUPS)
    assert own["target_mean"] == 1 and own["triple"] == "band 0 + band 4 = band 2"
    assert turned["target_mean"] == 0 and turned["triple"] == "band 4 + band 0 = band 1"
    # Of the pairs with one of its classes and without the target: (1, 4) and (3, 4) of eight.
    assert one["target_mean"] == pytest.approx(2 / 8) and one["on"] in {"band 1 + band 4", "band 3 + band 4"}
    assert neither["target_mean"] == 0
