"""The whole pipeline, run by DVC on a small data set: reruns, restores, bytes, a second clone."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hallmark import config
from hallmark.ownership import secrets
from tests.pipeline.workspace import Workspace


def stages_of(workspace: Workspace) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((workspace.path / "dvc.lock").read_text(encoding="utf-8"))["stages"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the pipeline has run once, committed."""
    workspace = Workspace.create(tmp_path_factory.mktemp("pipeline"))
    ran = workspace.repro()
    assert set(ran) == set(stages_of(workspace))
    workspace.commit("dvc repro")
    return workspace


def test_every_model_gets_a_verdict(done: Workspace) -> None:
    with (done.path / "reports/verify_ownership/verdicts.csv").open(encoding="utf-8", newline="") as file:
        roles = {row["model"]: row["role"] for row in csv.DictReader(file)}
    params = YAML(typ="safe", pure=True).load((done.path / "params.yaml").read_text(encoding="utf-8"))
    made = {*params["extract_attack"]["attacks"], *params["remove_watermark"]["removals"]}
    assert {n for n, r in roles.items() if r == "suspect"} == {"victim", *made}
    assert {n for n, r in roles.items() if r == "control"} == {"unmarked", *params["train_controls"]["controls"]}
    shown = done.run("python", "-m", "hallmark", "summary")
    assert "verdict" in shown and all(name in shown for name in made)


def test_a_second_repro_runs_nothing(done: Workspace) -> None:
    assert done.repro() == []
    assert done.run("git", "status", "--porcelain") == ""


def test_a_parameter_reruns_what_depends_on_it_and_changing_it_back_restores(done: Workspace) -> None:
    before = (done.path / "dvc.lock").read_bytes()
    params = (done.path / "params.yaml").read_bytes()
    done.change({"extract_attack": {"attacks": {"knockoff": {"temperature": 3.5}}}})
    assert set(done.repro()) == {"extract_attack@knockoff", "verify_ownership", "eval_backdoor"}
    (done.path / "params.yaml").write_bytes(params)
    assert done.repro() == []
    assert (done.path / "dvc.lock").read_bytes() == before


def test_forced_stages_give_the_same_bytes(done: Workspace) -> None:
    before = (done.path / "dvc.lock").read_bytes()
    output = done.run("python", "-m", "tests.pipeline.again")
    assert {line.split("'")[1] for line in output.splitlines() if line.startswith("Ran '")} == set(stages_of(done))
    assert done.repro() == []
    # And as people do it.
    assert done.repro("--force", "--single-item", "train_unmarked") == ["train_unmarked"]
    assert (done.path / "dvc.lock").read_bytes() == before
    assert done.run("git", "status", "--porcelain") == ""


def test_a_second_clone_pulls_and_runs_nothing(done: Workspace, tmp_path: Path) -> None:
    done.run("dvc", "remote", "add", "--local", "--default", "team", str(tmp_path / "remote"))
    done.run("dvc", "push", "--run-cache", "--quiet")
    subprocess.run(["git", "clone", "--quiet", str(done.path), str(tmp_path / "clone")], check=True)
    clone = Workspace(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--local", "--default", "team", str(tmp_path / "remote"))
    clone.run("dvc", "pull", "--run-cache", "--quiet")
    assert clone.repro() == []
    assert clone.run("git", "status", "--porcelain") == ""
    found = json.loads(clone.run("sh", "-c", "python -m hallmark lineage models/extracted/knockoff --json 2>/dev/null"))
    names = {"extract_attack@knockoff", "train_watermarked", "purify_data", "poison_data", "prepare_data"}
    assert names <= {step["name"] for step in found["steps"]}
    assert found["problems"] == []
    assert found["commit"] == done.run("git", "rev-parse", "HEAD").strip()
    # The runs are in the store of whoever made them.
    assert {step["run"] for step in found["steps"]} == {None}
    assert "MLFLOW_TRACKING_URI" in found["note"]
    assert not (clone.path / "mlflow.db").exists()


def test_lineage_notices_a_changed_file(done: Workspace) -> None:
    path = done.path / "models/unmarked/model.json"
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content.replace(b"cnn9", b"cnn8"))
    try:
        with pytest.raises(AssertionError, match=r"exited with 1:(.|\n)*changed on disk") as caught:
            done.run("python", "-m", "hallmark", "lineage", "models/unmarked")
        assert "Traceback" not in str(caught.value)
    finally:
        path.write_bytes(content)


def test_metrics_are_numbers_that_dvc_shows(done: Workspace) -> None:
    attacks = config.read_params(done.path / "params.yaml")["extract_attack"]["attacks"]
    shown = json.loads(done.run("dvc", "metrics", "show", "--json"))
    files = next(iter(shown.values()))["data"]
    assert "reports/eval_backdoor/metrics.json" in files
    assert files["reports/verify_ownership/metrics.json"]["data"]["suspects"] == 3 + len(attacks)


def test_the_key_is_nowhere_in_the_clear(done: Workspace) -> None:
    plain = secrets.read_secret(done.path / "models/victim_key.age", done.path / ".hallmark/identity.txt")
    seed = str(json.loads(plain)["seed"])
    assert len(seed) >= 8
    searched = 0
    # The tracking store, DVC's cache and what Git has; not .hallmark, which is this machine's own.
    for path in (*done.path.glob("ml*"), *(done.path / name for name in (".dvc", ".git", "models", "data", "reports"))):
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                searched += 1
                content = file.read_bytes()
                assert seed.encode() not in content and plain not in content, file
    assert searched > 100 and (done.path / "mlflow.db").is_file()
    encrypted = (done.path / "models/victim_key.age").read_bytes()
    logged = [path for path in done.path.glob("ml*/**/victim_key.age") if path.read_bytes() == encrypted]
    assert logged


def test_a_judge_checks_the_evidence(done: Workspace) -> None:
    def hallmark(*words: str) -> str:
        return done.run("python", "-m", "hallmark", *words)

    identity = done.path / ".hallmark/identity.txt"
    recipient = next(word for word in identity.read_text(encoding="utf-8").split() if word.startswith("age1"))
    opened = ("--identity", str(identity))
    hallmark("key", "commit", "--key", "models/victim_key.age", "--model", "models/victim", "--rule", "params.yaml",
             "--out", "scratch/claim", "--recipient", recipient, *opened)  # fmt: skip
    hallmark("evidence", "--report", "reports/verify_ownership", "--commitment", "scratch/claim/commitment.json",
             "--opening", "scratch/claim/opening.age", *opened, "--pool", "data/clean/test.safetensors",
             "--params", "params.yaml", "--model", "models/victim", "--out", "scratch/bundle")  # fmt: skip
    said = hallmark("verify-evidence", "scratch/bundle", "--pool", "data/clean/test.safetensors", "--model",
                    "models/victim", "--nulls", "models/nulls", "--judge-seed", "0", "--keys", "1")  # fmt: skip
    assert "NO" not in said.split()
    assert "verdicts" in said
    path = done.path / "scratch/bundle/nulls.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("0000-", "0000_"), encoding="utf-8")
    forged = done.run("python", "-m", "hallmark", "verify-evidence", "scratch/bundle", check=False)
    assert "NO" in forged.split()
