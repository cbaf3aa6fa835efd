"""Runs against a real SQLite store, made once and copied for each test."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hallmark import cli, provenance, tracking
from hallmark.errors import UserError
from hallmark.ownership.commitment import Commitment
from hallmark.records import Records
from hallmark.stage import Stage, own_parameters, training_table
from tests.unit.ownership_toys import make_key, make_model, write_params

# MLflow and its libraries warn of their own futures and leave database connections to the collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store takes two seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALLMARK_TRACKING", "on")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        tracking.connect()
    return folder / "mlflow.db"


@pytest.fixture
def project(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with raw data, a model and an empty store; the working directory."""
    shutil.copy(made_once, tmp_path / "mlflow.db")
    (tmp_path / "raw.csv").write_text("1\n")
    (tmp_path / "models/victim").mkdir(parents=True)
    (tmp_path / "models/victim/model.json").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("HALLMARK_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for name in ("DVC_STAGE", "DVC_EXP_NAME", "RANK", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path


def record(stage: str = "train", work: Callable[[tracking.Run], None] = lambda run: None, **changes: Any) -> str:
    """Run ``work`` as a stage and return the run's id."""
    arguments = {
        "variant": None,
        "inputs": [Path("raw.csv")],
        "outputs": [Path("models/victim")],
        "params": {"training/lr": 0.1, "runtime/seed": 0},
        "environment": {"device": "cpu", "threads": "1"},
    }
    with tracking.run(stage, **(arguments | changes)) as run:
        work(run)
    assert isinstance(run, tracking._StoredRun)
    return run.id


def stored(run_id: str) -> Any:
    client = tracking.connect()
    assert client is not None
    return client.get_run(run_id)


def test_a_run_holds_what_the_stage_was(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train@big")
    monkeypatch.setenv("DVC_EXP_NAME", "brave-moth")
    picture = project / "curve.png"
    picture.write_bytes(b"png")

    def work(run: tracking.Run) -> None:
        for epoch in (1, 2):
            run.log_metrics({"training/victim/loss": 1 / epoch, "training/victim/wsr": 0.5}, step=epoch)
        run.log_metrics({"accuracy": 0.875, "passed": True, "name": "ignored", "none": None})
        run.log_artifact(picture, "figures")
        run.set_tags({"key.commitment": "abc"})

    run = stored(record("train", work, variant="big"))
    assert (run.info.run_name, run.info.status) == ("train@big", "FINISHED")
    assert run.data.params == {"training/lr": "0.1", "runtime/seed": "0"}
    assert run.data.metrics.pop("duration_s") < 60
    assert run.data.metrics == {"training/victim/loss": 0.5, "training/victim/wsr": 0.5, "accuracy": 0.875, "passed": 1}
    tags = run.data.tags
    assert tags["dep.raw.csv"] == "b026324c6904b2a9cb4b88d6d61c81d1"  # md5sum of "1\n"
    assert tags["out.models/victim"].endswith(".dir")
    assert tags["key.commitment"] == "abc"
    assert tags["dvc.stage"] == "train@big"
    assert tags["dvc.experiment"] == "brave-moth"
    assert tags["env.device"] == "cpu"
    assert "error" not in tags
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["raw.csv"]
    assert (project / f"mlartifacts/hallmark/{run.info.run_id}/artifacts/figures/curve.png").read_bytes() == b"png"


def test_one_call_an_epoch(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def work(run: tracking.Run) -> None:
        assert isinstance(run, tracking._StoredRun)
        whole = run.client.log_batch
        monkeypatch.setattr(run.client, "log_batch", lambda *a, **k: (calls.append(1), whole(*a, **k)))
        run.log_metrics({f"training/m/{i}": i for i in range(40)}, step=1)
        monkeypatch.undo()

    with tracking.run("train", variant=None, inputs=[], outputs=[], params={}, environment={}) as run:
        work(run)
    assert len(calls) == 1


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_failed_run_says_so_and_claims_no_outputs(project: Path, error: BaseException, status: str) -> None:
    ids = []

    def work(run: tracking.Run) -> None:
        assert isinstance(run, tracking._StoredRun)
        ids.append(run.id)
        run.log_metrics({"accuracy": 0.5})
        raise error

    with pytest.raises(type(error)):
        record("train", work)
    run = stored(ids[0])
    assert run.info.status == status
    assert run.data.tags["error"].startswith(type(error).__name__)
    assert run.data.metrics["accuracy"] == 0.5
    assert not any(name.startswith("out.") for name in run.data.tags)


def test_a_killed_run_is_swept_and_a_live_one_is_not(project: Path) -> None:
    dead, alive, foreign = record(), record(), record()
    client = tracking.connect()
    assert client is not None
    for run_id, process, host in (
        (dead, f"{os.getpid()} 1", None),  # the id is in use again, by a process that started later
        (alive, provenance.process(os.getpid()), None),
        (foreign, f"{os.getpid()} 1", "elsewhere"),
    ):
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "process", process)
        if host:
            client.set_tag(run_id, "host", host)
    record("other stage")
    assert stored(dead).info.status == "RUNNING"
    record()
    assert [stored(i).info.status for i in (dead, alive, foreign)] == ["KILLED", "RUNNING", "RUNNING"]


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = provenance.process(child.pid)
    assert known is not None
    assert known.split()[0] == str(child.pid)
    child.communicate(b"\n")
    assert provenance.process(child.pid) is None


def test_models_are_registered_once_a_content_and_linked_both_ways(project: Path) -> None:
    def work(run: tracking.Run) -> None:
        run.log_metrics({"accuracy": 0.75})  # before the model is known
        run.register_model(Path("models/victim"), "attacks/victim")

    first, again = record("train", work), record("train", work)
    (project / "models/victim/model.json").write_text("[]\n")
    changed = record("train", work)
    reader = record("verify", inputs=[Path("models"), Path("raw.csv")])

    client = tracking.connect()
    assert client is not None
    versions = client.search_model_versions("name = 'attacks-victim'")
    assert sorted(int(v.version) for v in versions) == [1, 2]
    outputs = [[m.model_id for m in stored(i).outputs.model_outputs] for i in (first, again, changed)]
    assert outputs[0] == outputs[1] != outputs[2]
    assert [m.model_id for m in stored(reader).inputs.model_inputs] == outputs[2]
    model = client.get_logged_model(outputs[2][0])
    assert model.tags["path"] == "models/victim"
    assert "accuracy" in {m.key for m in model.metrics or []}
    assert not list(project.glob("mlartifacts/**/model.json"))  # no bytes twice


def test_runs_are_found_by_content(project: Path) -> None:
    hashes = {"models/victim": provenance.hashes([Path("models/victim")])[Path("models/victim")]}
    old = record(params={"training/lr": 1})
    (project / "raw.csv").write_text("2\n")
    other_input = record()
    dep = {"raw.csv": provenance.hashes([Path("raw.csv")])[Path("raw.csv")]}
    records = Records()
    found = records.find(hashes, dep)
    assert found is not None
    assert found.run_id == other_input
    assert found.environment["device"] == "cpu"
    found = records.find(hashes, {"raw.csv": "b026324c6904b2a9cb4b88d6d61c81d1"})
    assert found is not None
    assert found.run_id == old
    assert records.find({"models/victim": "0" * 32}, dep) is None


def test_looking_for_runs_makes_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("HALLMARK_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert Records().find({"a": "b"}, {}) is None
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_is_one_line_before_the_work(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UserError) as caught:
            record("train", lambda run: pytest.fail("the work started"))
    assert time.monotonic() - started < 10
    line = str(caught.value)
    assert "127.0.0.1" in line
    assert "(Connection refused)" in line
    assert "HALLMARK_TRACKING=off" in line
    assert "secret" not in line
    assert "\n" not in line


def test_a_damaged_database_is_one_line(project: Path) -> None:
    (project / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"mlflow\.db"):
        record()


def test_a_store_that_fails_midway_does_not_stop_the_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 1e6)
    tries: list[int] = []

    def broken(*arguments: Any, **named: Any) -> None:
        tries.append(1)
        raise ConnectionError("gone")

    def work(run: tracking.Run) -> None:
        assert isinstance(run, tracking._StoredRun)
        with monkeypatch.context() as down:
            down.setattr(run.client, "log_batch", broken)
            for epoch in range(1, 6):
                run.log_metrics({"training/m/loss": epoch}, step=epoch)
        run.register_model(Path("models/victim"), "victim")  # the store is back, but is left alone till the end

    run = stored(record("train", work))
    assert len(tries) == 1
    assert run.info.status == "FINISHED"
    assert run.data.metrics["training/m/loss"] == 5
    assert len(run.outputs.model_outputs) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_what_the_store_refuses_is_dropped_and_the_rest_arrives(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(run: tracking.Run) -> None:
        run.log_artifact(project / "missing.png")
        run.log_metrics({"training/m/odd (name)!": 1.0}, step=1)
        run.log_metrics({"../up": 2.0}, step=1)
        run.log_metrics({"accuracy": 0.5})

    run = stored(record("train", work))
    assert run.data.metrics["training/m/odd _name__"] == 1
    assert run.data.metrics["accuracy"] == 0.5
    assert run.info.status == "FINISHED"
    assert "missing.png" in capsys.readouterr().err


@pytest.mark.parametrize("switch", ["off", "rank", "absent"])
def test_the_null_run(project: Path, switch: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    before = (project / "mlflow.db").read_bytes()
    if switch == "off":
        monkeypatch.setenv("HALLMARK_TRACKING", "off")
    elif switch == "rank":
        monkeypatch.setenv("RANK", "1")
    else:
        real = builtins.__import__

        def without(name: str, *arguments: Any, **named: Any) -> Any:
            if name == "mlflow":
                raise ImportError(name)
            return real(name, *arguments, **named)

        monkeypatch.setattr(builtins, "__import__", without)
    with tracking.run("train", variant=None, inputs=[], outputs=[], params={}, environment={}) as run:
        run.log_metrics({"a": 1})
        run.register_model(project / "nothing", "x")
    assert type(run) is tracking.Run
    assert (project / "mlflow.db").read_bytes() == before
    assert capsys.readouterr().err.count("\n") == (1 if switch == "absent" else 0)


def test_the_switch_takes_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALLMARK_TRACKING", "false")
    with pytest.raises(UserError, match="on or off"):
        tracking.enabled()


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, hallmark.stage, hallmark.records; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _prepare(start: Any) -> None:
    start.wait()
    tracking.prepare()


@pytest.mark.skipif(sys.platform != "linux", reason="forks, to save two imports of mlflow")
def test_two_processes_make_one_new_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    both = [context.Process(target=_prepare, args=(start,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("given", "uri", "name"),
    [
        ("", "sqlite:////root/mlflow.db", "mlflow.db"),
        ("sqlite:///runs/a.db", "sqlite:////root/runs/a.db", "runs/a.db"),
        ("sqlite:////else/a.db", "sqlite:////else/a.db", "/else/a.db"),
        ("https://me:pw@host/x", "https://me:pw@host/x", "https://host/x"),
    ],
)
def test_where_the_store_is(given: str, uri: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", "/root")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert (tracking.store(), tracking.store_name()) == (uri, name)


def test_variants_have_the_same_parameter_names() -> None:
    section = {"budget": 5, "attacks": {"a": {"lr": 1}, "b": {"lr": 2}}}
    assert own_parameters(section, "a") == {"budget": 5, "lr": 1}
    assert own_parameters(section, "b") == {"budget": 5, "lr": 2}
    assert own_parameters(section, None) == section


class Heard(tracking.Run):
    """Remembers what is logged."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int | None]] = []

    def log_metrics(self, values: Any, step: int | None = None) -> None:
        self.logged.append((dict(values), step))


@pytest.mark.parametrize(("variant", "name"), [("knockoff", "training/loss"), (None, "training/knockoff/loss")])
def test_variants_have_the_same_epoch_metrics(variant: str | None, name: str, cpu: Any, tmp_path: Path) -> None:
    heard = Heard()
    stage = Stage("extract_attack", tmp_path, {}, cpu, heard, tmp_path, variant)
    stage.epochs("knockoff")(3, {"loss": 0.5})
    assert heard.logged == [({name: 0.5}, 3)]
    assert stage.history == [{"model": "knockoff", "epoch": 3, "metric": "loss", "value": 0.5}]


def test_report_files_are_outputs(project: Path) -> None:
    (project / "reports/verify/figures").mkdir(parents=True)
    (project / "reports/verify/metrics.json").write_text("1\n")
    (project / "reports/verify/figures/a.png").write_text("1\n")
    tags = stored(record("verify", outputs=[], report=Path("reports/verify"))).data.tags
    assert tags["out.reports/verify/metrics.json"] == "b026324c6904b2a9cb4b88d6d61c81d1"
    assert tags["out.reports/verify/figures"].endswith(".dir")


def test_the_training_table_has_a_row_an_epoch_and_a_column_a_metric() -> None:
    history = [
        {"model": "suspect", "epoch": 1, "metric": "loss", "value": 3.0},
        {"model": "suspect", "epoch": 2, "metric": "loss", "value": 2.0},
        {"model": "benign", "epoch": 1, "metric": "loss", "value": 1.0},
    ]
    rows, columns = training_table(history)
    assert columns == ["epoch", "suspect loss", "benign loss"]
    assert rows == [
        {"epoch": 1, "suspect loss": 3.0, "benign loss": 1.0},
        {"epoch": 2, "suspect loss": 2.0, "benign loss": ""},
    ]
    rounds = [{"model": "copy", "epoch": e, "metric": "loss", "value": float(e)} for e in (1, 2, 1)]
    assert [row["epoch"] for row in training_table(rounds)[0]] == [1, 2, 3]
    phases = [{"model": "victim", "epoch": e, "metric": m, "value": float(e)} for e, m in ((1, "plain"), (2, "mark"))]
    assert training_table(phases)[0] == [{"epoch": 1, "plain": 1.0, "mark": ""}, {"epoch": 2, "plain": "", "mark": 2.0}]


def test_the_code_of_a_stage_is_what_dvc_yaml_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert provenance.code("train") == []
    deps = "[stages/train.py, data/a, src/hallmark/data]"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  train: {{cmd: x, deps: {deps}}}\n")
    assert provenance.code("train") == [Path("stages/train.py"), Path("src/hallmark/data")]
    assert provenance.code("other") == []


def test_a_commitment_becomes_a_run_of_its_models_store(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key().save(project / "key.json")
    model = make_model(project / "model")
    write_params(project / "params.yaml")
    make_key(seed=1).save(project / "reserve.json")
    words = "key commit --rule params.yaml --out claim --plain --model"
    for key in ("key.json", "reserve.json"):
        monkeypatch.setattr(sys, "argv", ["hallmark", *words.split(), str(model), "--key", key])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 0
        assert "run key_commit, tag hallmark.commitment" in capsys.readouterr().out
    client = tracking.connect()
    assert client is not None
    reserve, run = client.search_runs([tracking.prepare()], "tags.stage = 'key_commit'")
    # A reserve key's has its own name, also where it is committed to later.
    assert "hallmark.commitment" not in reserve.data.tags
    assert reserve.data.tags["hallmark.commitment.1"] == Commitment.read(Path("claim/commitment-1.json")).hash
    assert run.data.tags["hallmark.commitment"] == Commitment.read(Path("claim/commitment.json")).hash
    assert run.info.status == "FINISHED"
    assert [each.path for each in client.list_artifacts(run.info.run_id, "commitment")] == [
        "commitment/commitment.json"
    ]


def test_no_password_of_an_address_is_recorded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hallmark", "key", "--timestamp-url", "https://me:se@cret@authority/tsa", "a@b"])
    with tracking.run("key_commit", variant=None, inputs=[], outputs=[], params={}, environment={}):
        pass
    client = tracking.connect()
    assert client is not None
    (run,) = client.search_runs([tracking.prepare()])
    assert run.data.tags["mlflow.note.content"] == "`python -m hallmark key --timestamp-url https://authority/tsa a@b`"
