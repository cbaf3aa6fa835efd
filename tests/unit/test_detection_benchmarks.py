"""The benchmarks of detectors and evasions, in small: what they compare, and that every figure is what it says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hallmark import artifacts, models, training
from hallmark.config import Architecture, RuntimeConfig, Training
from hallmark.contest.removal.plan import Plan
from hallmark.contest.watermark.run import load_base
from hallmark.data.dataset import ImageDataset
from hallmark.detection import calibration
from hallmark.diffusion import model as diffusion_model
from hallmark.errors import UserError
from hallmark.evasion import Means
from hallmark.models import Network
from hallmark.ownership import keyfile
from hallmark.runtime import Runtime, start
from hallmark.suspects import Suspect
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


@pytest.fixture
def evasion() -> ModuleType:
    return import_module("evasion")


@pytest.fixture
def pipeline_words(folders: Path) -> list[str]:
    """Options for models/ and data/ of a pipeline, with a copy that does not know one of the classes."""
    runtime, other = start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=1)), toy_images(150, 7, 14, 3)
    worse = models.build(Architecture(name="cnn9", width=8), other.images, other.classes, runtime, "worse")
    how, labels = Training(epochs=6, batch_size=20, lr=4e-3), other.labels.where(other.labels != 6, 5)
    training.train_classifier(worse, other.images, labels, how, runtime, purpose="worse")
    models.save(worse, folders / "models/extracted/worse")
    table = [
        {"model": f"{k:04d}", "accuracy": 1.0, "hits": k % 3, "runner_up": k % 3, "lean": -2 + 0.1 * k,
         "plain_first": 0, "plain_second": 0, "sha256": f"{k:064d}"}
        for k in range(12)
    ]  # fmt: skip
    artifacts.write_csv(folders / "nulls.csv", table, panel.PANEL_COLUMNS)
    words = ["--models", folders / "models", "--data", folders / "data", "--nulls-table", folders / "nulls.csv",
             "--diffusion", folders / "models/diffusion", "--params", ROOT / "params.yaml", "--threads", 1,
             "--calibration", 200, "--images", 100]  # fmt: skip
    return [str(word) for word in words]


def test_an_evasion_is_paid_for_on_the_thiefs_images_and_judged_on_the_judges(
    evasion: ModuleType, pipeline_words: list[str], folders: Path
) -> None:
    out = folders / "evasion.csv"
    words = [*pipeline_words, "--only", "gaussian_noise", "labels_only", "--cost", "0.1", "0.02", "--out", str(out)]
    evasion.main(words)
    rows = {(r["evasion"], float(r["cost"]), r["model"]): r for r in artifacts.read_csv(out, evasion.COLUMNS)}
    kinds = [("none", 0.0), *((e, c) for e in ("gaussian_noise", "labels_only") for c in (0.1, 0.02))]
    assert list(rows) == [(e, c, m) for e, c in kinds for m in ("victim", "copy", "worse")]
    plain, labels = ({m: rows[e, c, m] for m in ("victim", "worse")} for e, c in (kinds[0], kinds[3]))
    assert float(plain["worse"]["accuracy"]) < float(plain["victim"]["accuracy"])
    for model in ("victim", "worse"):
        noisy = rows["gaussian_noise", 0.1, model]
        assert float(plain[model]["accuracy_lost"]) == 0 == float(labels[model]["accuracy_lost"])
        assert float(plain[model]["inconsistent"]) == 0 < float(noisy["inconsistent"])
        lost = float(plain[model]["accuracy"]) - float(noisy["accuracy"])
        assert float(noisy["accuracy_lost"]) == pytest.approx(lost, abs=2e-6)
        assert labels[model]["wsr"] == plain[model]["wsr"] and labels[model]["lean"] == ""
        # Who gives up more may add more noise.
        assert float(rows["gaussian_noise", 0.02, model]["strength"]) < float(noisy["strength"])
        # "Does the main task" is told by the victim's accuracy without any evasion.
        needed = f"{0.8 * float(plain['victim']['accuracy']):.1%} needed"
        assert all(needed in rows[(*kind, model)]["reasons"] for kind in kinds)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_question_that_is_asked_often_is_answered_alike(
    evasion: ModuleType, pipeline_words: list[str], folders: Path
) -> None:
    shares = {}
    for times in (1, 9):
        out = folders / f"asked_{times}.csv"
        evasion.main([*pipeline_words, "--only", "gaussian_noise", "--times", str(times), "--out", str(out)])
        row = artifacts.read_csv(out, evasion.COLUMNS)[3]
        assert (row["evasion"], row["model"], row["times"]) == ("gaussian_noise", "victim", str(times))
        shares[times] = float(row["inconsistent"])
    assert shares[9] < shares[1]


def test_the_thiefs_images_for_lof_are_not_those_on_which_the_strength_is_sought(
    evasion: ModuleType, pipeline_words: list[str], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def thief_side(suspect: Suspect, name: str, means: Means, labelled: ImageDataset, cost: float) -> Any:
        seen.append((means.images, labelled))
        return suspect, 0.5, 1.0

    monkeypatch.setattr(evasion, "thief_side", thief_side)
    evasion.main([*pipeline_words, "--only", "reject_lof", "--out", str(folders / "evasion.csv")])
    own = ImageDataset.load(folders / "data/queries.safetensors")
    for images, labelled in seen:
        assert torch.equal(labelled.images, own.images[:200]) and torch.equal(labelled.labels, own.labels[:200])
        assert torch.equal(images, own.images[200:300])


def test_the_evasions_of_a_contests_thieves(
    evasion: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, out, seen = test_removal_contest.plan_file(folders), folders / "evasion.csv", []
    real = evasion.thief_side

    def thief_side(suspect: Suspect, name: str, means: Means, labelled: ImageDataset, cost: float) -> Any:
        seen.append((means.images, labelled))
        return real(suspect, name, means, labelled, cost)

    monkeypatch.setattr(evasion, "thief_side", thief_side)
    words = ["--contest", params, "--seeds", 1, "--work", folders / "work", "--diffusion", folders / "models/diffusion",
             "--calibration", 100, "--images", 50, "--only", "labels_only", "--out", out]  # fmt: skip
    evasion.main([str(word) for word in [*words, "--scheme", "mea"]])
    rows = artifacts.read_csv(out, evasion.COLUMNS)
    assert [(row["seed"], row["evasion"], row["model"]) for row in rows] == [
        ("1", name, model) for name in ("none", "labels_only") for model in ("victim", "all")
    ]
    # Those that do nothing are the contest's, and judged as there, each alone.
    test_removal_contest.call(params, folders, "--seed", "1", "--scheme", "mea", "--removal", "pruned")
    cells = {row["target"]: row for row in test_removal_contest.rows_of(folders) if row["removal"] == "none"}
    assert cells["all"]["accuracy"] != cells["victim"]["accuracy"]
    for row in rows[:2]:
        cell = cells[row["model"]]
        assert row["decision"] == cell["verdict_hits"]
        assert float(row["p_value"]) == pytest.approx(float(cell["p_hits"]), rel=5e-3)
        assert float(row["lean"]) == pytest.approx(float(cell["score"]), abs=1e-5)
    assert len(list((folders / "work").glob("victim-*"))) == 1
    # The thief's images are those of the contest's thieves, in two parts.
    base = load_base(Plan.read(params).marks, 1, Path("data/raw"), folders / "work")
    for images, labelled in seen:
        assert torch.equal(labelled.images, base.queries.images[:100])
        assert torch.equal(images, base.queries.images[100:150])
    with pytest.raises(UserError, match="--scheme adi: has no key"):
        evasion.main([str(word) for word in [*words, "--scheme", "adi"]])


def test_the_picture_shows_means_over_seeds(evasion: ModuleType) -> None:
    rows = [{"model": m, "evasion": "blur", "wsr": w} for m, w in (("victim", 0.2), ("victim", 0.6), ("copy", 0.9))]
    assert evasion.mean_wsr(rows, "victim", "blur") == pytest.approx(0.4)
