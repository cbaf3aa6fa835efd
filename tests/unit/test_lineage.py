"""Lineage on a two-stage DVC project; the pipeline's test asks for it in a second clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hallmark import artifacts
from hallmark.errors import UserError
from hallmark.lineage import render, trace

pytestmark = pytest.mark.filterwarnings("ignore")

STAGE = """
import sys
from pathlib import Path
from hallmark import tracking

name, source, target = sys.argv[1:]
with tracking.run(name, variant=None, inputs=[Path(source)], outputs=[Path(target)],
                  params={"gain": 2}, environment={"device": "cpu"}) as run:
    out = Path(target)
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(sorted(p.read_text() for p in Path(source).parent.rglob(Path(source).name) if p.is_file()))
    (out / "model.json").write_text(name + text)
    if name == "prepare":
        (out / "meta.json").write_text('{"raw_sha256": {"part.gz": "0123abcd"}}')
    (out / "a-b").write_text("sorts before a/x only as a whole string")
    (out / "a").mkdir(exist_ok=True)
    (out / "a" / "x").write_text("x")
    run.log_metrics({"accuracy": 0.5})
"""
PIPELINE = """
stages:
  prepare:
    cmd: python stages/work.py prepare raw.csv data/clean
    deps: [raw.csv, stages]
    outs: [data/clean]
  train:
    matrix: {kind: [big]}
    cmd: python stages/work.py train data/clean/model.json models/${item.kind}
    params: [gain]
    deps: [data/clean/model.json, stages]
    outs: ["models/${item.kind}"]
"""


@dataclass
class Clone:
    """A Git and DVC repository."""

    path: Path

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        drop = ("MLFLOW_", "DVC_", "HALLMARK_", "GIT_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(artifacts.__file__).parents[1]),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_NO_ANALYTICS": "1",
        }
        done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done

    def commit(self, message: str) -> str:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", message)
        return self.run("git", "rev-parse", "HEAD").stdout.strip()


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, str]:
    """The project after ``dvc repro``, and its commit."""
    base = tmp_path_factory.mktemp("lineage")
    clone = Clone(base / "here")
    (clone.path / "stages").mkdir(parents=True)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "params.yaml": "gain: 2\n",
        "raw.csv": "1\n",
        "stages/work.py": STAGE,
        ".gitignore": "/mlflow.db*\n",
        ".dvcignore": "__pycache__\n",
    }.items():
        (clone.path / name).write_text(text)
    clone.run("git", "init", "--quiet")
    clone.run("dvc", "init", "--quiet")
    (clone.path / "stages/__pycache__").mkdir()
    (clone.path / "stages/__pycache__/work.pyc").write_bytes(b"not code")
    clone.run("dvc", "repro", "--quiet")
    return clone, clone.commit("all")


@pytest.fixture
def here(made_once: tuple[Clone, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that a test may spoil; the run store comes along."""
    shutil.copytree(made_once[0].path, tmp_path / "here")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "here"))
    monkeypatch.setenv("HALLMARK_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    return tmp_path / "here"


def lines(path: str, root: Path) -> Sequence[str]:
    return list(render(trace(path, root)))


def test_from_a_model_back_to_the_raw_data(here: Path, made_once: tuple[Clone, str]) -> None:
    found = trace("models/big", here)
    assert found.problems == []
    assert found.commit == made_once[1]
    assert [step.name for step in found.steps] == ["train@big", "prepare"]
    train, prepare = found.steps
    assert (train.raw, prepare.raw) == ({}, {"part.gz": "0123abcd"})
    assert train.parameters == {"gain": 2}
    assert {link.path: link.writer for link in train.inputs} == {"data/clean/model.json": "prepare", "stages": None}
    assert {link.path: link.writer for link in prepare.inputs} == {"raw.csv": None, "stages": None}
    assert train.run is not None
    assert prepare.run is not None
    assert (train.run.name, train.run.metrics["accuracy"]) == ("train", 0.5)
    text = "\n".join(render(found))
    for part in (
        made_once[1][:10],
        "work.py train",
        "gain=2",
        "raw.csv",
        "raw    part.gz sha256 0123abcd",
        "no stage writes it",
        train.run.run_id,
        "accuracy=0.5",
    ):
        assert part in text
    assert "!!" not in text


@pytest.mark.parametrize("path", ["models/big", "models", "models/big/a/x"])
def test_an_output_a_folder_of_outputs_and_a_file_inside_one(here: Path, path: str) -> None:
    assert [step.name for step in trace(path, here).steps] == ["train@big", "prepare"]


def test_a_changed_file_is_named_wherever_it_stands(here: Path) -> None:
    model = here / "data/clean/model.json"
    model.unlink()  # it may be a link into DVC's cache
    model.write_text("tampered")
    problems = trace("models/big", here).problems
    assert sorted(p.split(":")[0] for p in problems) == ["data/clean", "data/clean/model.json"]
    assert all("changed on disk" in p and "dvc checkout" in p and "dvc repro" in p for p in problems)


def test_changed_raw_data_and_code_are_named(here: Path) -> None:
    (here / "raw.csv").write_text("2\n")
    (here / "stages/work.py").write_text("pass")
    assert [p.split(":")[0] for p in trace("data/clean", here).problems] == ["raw.csv", "stages"]


def test_a_missing_output_is_named(here: Path) -> None:
    shutil.rmtree(here / "models/big")
    (problem,) = trace("models/big", here).problems
    assert problem.startswith("models/big: missing: dvc checkout")


def test_a_reader_of_another_version_is_named(here: Path) -> None:
    lock = here / "dvc.lock"
    recorded = trace("models/big", here).steps[1].outputs[0].md5
    text = lock.read_text().replace("path: data/clean/model.json", "path: data/clean")
    lock.write_text(text)
    assert recorded in text
    problems = [p for p in trace("models/big", here).problems if "another version" in p]
    assert problems == ["data/clean: train@big read another version than prepare wrote: dvc repro"]
    assert trace("models/big", here).commit is None  # dvc.lock is not committed now


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (None, "no such file; run dvc repro"),
        ("a: [", "damaged"),
        ("stages: 3", "damaged"),
        ("stages: {x: {}}", "damaged"),
    ],
)
def test_a_missing_or_damaged_lock_is_one_line(tmp_path: Path, lock: str | None, message: str) -> None:
    if lock is not None:
        (tmp_path / "dvc.lock").write_text(lock)
    with pytest.raises(UserError, match=message) as caught:
        trace("models/big", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_path_that_no_stage_writes(here: Path) -> None:
    with pytest.raises(UserError, match="no stage"):
        trace("raw.csv", here)


def test_an_unreachable_server_does_not_hide_the_story(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    text = lines("models/big", here)
    assert any("raw.csv" in line for line in text)
    assert "does not answer" in text[-1]


def test_a_restored_result_leads_to_the_earlier_run(here: Path) -> None:
    """A hit in DVC's run cache makes no run."""
    before = trace("models/big", here).steps[0].run
    lock = here / "dvc.lock"
    lock.write_text(lock.read_text().replace("gain: 2", "gain: 3"))  # as if another value had been run since
    assert "is cached" in Clone(here).run("dvc", "repro").stdout
    after = trace("models/big", here).steps[0]
    assert after.parameters == {"gain": 2}
    assert after.run == before
