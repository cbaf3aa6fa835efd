"""The benchmarks of detectors and evasions, in small: what they compare, and that every figure is what it says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hallmark import artifacts, models, training
from hallmark.config import Architecture, RuntimeConfig, Training
from hallmark.detection import calibration
from hallmark.diffusion import model as diffusion_model
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime, start
from hallmark.verification import panel
from hallmark.watermark.key import Key
from tests.unit import test_removal_contest
from tests.unit.conftest import toy_images
from tests.unit.test_architecture import ROOT

DATA = toy_images(500, classes=7, size=14)
KEY = Key("mea_defender", "top_bottom", {}, ("diagonal",), (0, 1), 2, 5, DATA.classes, DATA.shape)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def network() -> Network:
    """Seven bands, learnt."""
    runtime = start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))
    found = models.build(Architecture(name="cnn9", width=8), DATA.images, DATA.classes, runtime, "toy")
    how = Training(epochs=6, batch_size=20, lr=4e-3)
    training.train_classifier(found, DATA.images, DATA.labels, how, runtime, purpose="toy")
    return found


@pytest.fixture
def folders(tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/ and data/ of a pipeline."""
    for name in ("victim", "unmarked", "extracted/copy"):
        models.save(network, tmp_path / "models" / name)
    diffusion_model.save(diffusion_model.new(DATA.shape, (8, 8), 1, 1, 150), tmp_path / "models" / "diffusion")
    for k, name in enumerate(("test", "reserve", "queries")):
        toy_images(500, classes=7, size=14, seed=20 + k).save(tmp_path / "data" / f"{name}.safetensors")
    monkeypatch.setattr(keyfile, "load", lambda path: KEY)
    return tmp_path


# --- detectors of queries ---


@pytest.fixture
def detectors() -> ModuleType:
    return import_module("query_detectors")


def test_every_query_of_a_thief_is_logged_in_its_order(detectors: ModuleType, network: Network, cpu: Runtime) -> None:
    shared = {"architecture": {"name": "cnn9", "width": 4}, "training": {"epochs": 9, "batch_size": 20, "lr": 1e-3}}
    own = toy_images(200, classes=7, size=14, seed=7)
    block = {"method": "jacobian", "budget": 80, "seeds": 40, "rounds": 1, "step": 0.1, "round_epochs": 1,
             "temperature": 1.0, **shared}  # fmt: skip
    asked = detectors.queries_of("thief", block, network, own, cpu, raw=Path())
    assert asked.shape == (80, *own.shape) and asked.dtype == torch.uint8
    known = {image.numpy().tobytes() for image in own.images}
    from_his_own = [image.numpy().tobytes() in known for image in asked]
    assert all(from_his_own[:40]) and not any(from_his_own[40:])
    free = {"method": "dfme", "budget": 300, **shared, "step": 2.8, "directions": 1, "generator_steps": 1,
            "student_steps": 1}  # fmt: skip
    free["training"] = {"epochs": 2, "batch_size": 10, "lr": 1e-3}
    assert 200 < len(detectors.queries_of("free", free, network, own, cpu, raw=Path())) <= 300


def test_users_are_compared_with_honest_ones_and_never_with_themselves(
    detectors: ModuleType, network: Network, cpu: Runtime
) -> None:
    honest = toy_images(300, classes=7, size=14, seed=9)
    strange = torch.randint(0, 256, (60, *honest.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = list(detectors.users(honest, {"thief": strange, "short": strange[:20]}, 50, cpu))
    assert [(user, part, len(images)) for user, part, images in given[-3:]] == [
        ("thief", "first", 50), ("thief", "last", 50), ("short", "first", 20),
    ]  # fmt: skip
    blocks = torch.cat([images for user, _, images in given if user == "honest"])
    assert len(blocks) == 300
    assert sorted(i.numpy().tobytes() for i in blocks) == sorted(i.numpy().tobytes() for i in honest.images)
    rows = detectors.rows_of("victim", network, given, toy_images(200, classes=7, size=14, seed=11), cpu)
    assert len(rows) == len(given) * len(detectors.DETECTORS)
    for detector in detectors.DETECTORS:
        own = [row for row in rows if row["detector"] == detector]
        scores = [row["score"] for row in own if row["user"] == "honest"]
        assert [row["honest_users"] for row in own] == [5] * 6 + [6] * 3
        assert own[2]["p"] == calibration.p_value(scores[2], scores[:2] + scores[3:])
        assert own[-2]["p"] == calibration.p_value(own[-2]["score"], scores)
    (lof,) = (r for r in rows if r["detector"] == "lof, inputs" and (r["user"], r["part"]) == ("thief", "last"))
    assert lof["refused"] == 1 and lof["p"] == pytest.approx(1 / 7)


# --- Neural Cleanse ---


def test_class_by_class_and_all_at_once_find_the_same(folders: Path) -> None:
    benchmark, out = import_module("neural_cleanse"), folders / "speed.csv"
    words = ["--model", folders / "models/victim", "--trusted", folders / "data/reserve.safetensors", "--params",
             ROOT / "params.yaml", "--threads", 1, "--steps", 4, "--batch-size", 10, "--rounds", 1,
             "--out", out]  # fmt: skip
    benchmark.main([str(word) for word in words])
    rows = {row["arm"]: row for row in artifacts.read_csv(out, benchmark.COLUMNS)}
    assert set(rows) == {"class by class", "all at once"}
    assert float(rows["class by class"]["times"]) == 1
    one, other = (float(rows[arm]["seconds"]) for arm in ("class by class", "all at once"))
    assert float(rows["all at once"]["times"]) == pytest.approx(one / other, rel=1e-3)
    assert all(float(row["norms_differ"]) < 1e-3 and float(row["masks_differ"]) < 1e-3 for row in rows.values())


def test_the_reversed_trigger_stands_beside_the_verdict(folders: Path) -> None:
    benchmark, out = import_module("reversed_trigger"), folders / "reversed.csv"
    columns = ("model", "wsr", "decision")
    artifacts.write_csv(folders / "verdicts.csv", [dict(zip(columns, ("copy", 0.9, "stolen"), strict=True))], columns)
    (folders / "models" / "controls").mkdir()
    words = ["--models", folders / "models", "--data", folders / "data", "--verdicts", folders / "verdicts.csv",
             "--params", ROOT / "params.yaml", "--threads", 1, "--steps", 60, "--images", 100,
             "--out", out]  # fmt: skip
    benchmark.main([str(word) for word in words])
    rows = {row["model"]: row for row in artifacts.read_csv(out, benchmark.COLUMNS)}
    assert list(rows) == ["victim", "unmarked", "copy"]
    assert (rows["copy"]["wsr"], rows["copy"]["decision"], rows["victim"]["decision"]) == ("0.9", "stolen", "")
    # The three are one network: its trigger is the victim's, and works better than nothing.
    for row in rows.values():
        assert row["own_trigger"] == row["victims_trigger"] == rows["victim"]["own_trigger"]
        assert float(row["own_trigger"]) > float(row["untouched"])


# --- evasions ---


def test_an_evasion_is_paid_for_on_the_thiefs_images_and_judged_on_the_judges(folders: Path) -> None:
    benchmark, out = import_module("evasion"), folders / "evasion.csv"
    table = [
        {"model": f"{k:04d}", "accuracy": 1.0, "hits": k % 3, "runner_up": k % 3, "lean": -2 + 0.1 * k,
         "plain_first": 0, "plain_second": 0, "sha256": f"{k:064d}"}
        for k in range(12)
    ]  # fmt: skip
    artifacts.write_csv(folders / "nulls.csv", table, panel.PANEL_COLUMNS)
    words = ["--models", folders / "models", "--data", folders / "data", "--nulls-table", folders / "nulls.csv",
             "--diffusion", folders / "models/diffusion", "--params", ROOT / "params.yaml", "--threads", 1,
             "--calibration", 200, "--images", 100, "--only", "gaussian_noise", "labels_only",
             "--out", out]  # fmt: skip
    benchmark.main([str(word) for word in words])
    rows = {(row["evasion"], row["model"]): row for row in artifacts.read_csv(out, benchmark.COLUMNS)}
    assert list(rows) == [(e, m) for e in ("none", "gaussian_noise", "labels_only") for m in ("victim", "copy")]
    plain, noisy, labels = (rows[name, "victim"] for name in ("none", "gaussian_noise", "labels_only"))
    assert float(plain["accuracy_lost"]) == 0 == float(labels["accuracy_lost"])
    assert float(plain["inconsistent"]) == 0 < float(noisy["inconsistent"])
    lost = float(plain["accuracy"]) - float(noisy["accuracy"])
    assert float(noisy["accuracy_lost"]) == pytest.approx(lost, abs=2e-6)
    assert labels["wsr"] == plain["wsr"] and labels["lean"] == ""
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    words[words.index("--out") + 1] = folders / "asked_often.csv"
    benchmark.main([str(word) for word in [*words, "--times", 9]])
    often = artifacts.read_csv(folders / "asked_often.csv", benchmark.COLUMNS)[2]
    assert (often["evasion"], often["model"], often["times"]) == ("gaussian_noise", "victim", "9")
    assert float(often["inconsistent"]) <= float(noisy["inconsistent"])


def test_the_evasions_of_a_contests_thieves(folders: Path) -> None:
    benchmark, out = import_module("evasion"), folders / "evasion.csv"
    params = test_removal_contest.plan_file(folders)
    words = ["--contest", params, "--seeds", 1, "--work", folders / "work", "--diffusion", folders / "models/diffusion",
             "--calibration", 100, "--images", 50, "--only", "labels_only", "--out", out]  # fmt: skip
    benchmark.main([str(word) for word in [*words, "--scheme", "mea"]])
    rows = artifacts.read_csv(out, benchmark.COLUMNS)
    assert [(row["seed"], row["evasion"], row["model"]) for row in rows] == [
        ("1", evasion, model) for evasion in ("none", "labels_only") for model in ("victim", "all")
    ]
    # The victim that does nothing is the contest's, judged as there.
    test_removal_contest.call(params, folders, "--seed", "1", "--scheme", "mea", "--target", "victim",
                              "--removal", "pruned")  # fmt: skip
    cells = test_removal_contest.rows_of(folders)
    (cell,) = (cell for cell in cells if cell["removal"] == "none")
    assert float(rows[0]["accuracy"]) > 0.5 and rows[0]["decision"] == cell["verdict_hits"]
    assert len(list((folders / "work").glob("victim-*"))) == 1
    with pytest.raises(UserError, match="--scheme adi: has no key"):
        benchmark.main([str(word) for word in [*words, "--scheme", "adi"]])
