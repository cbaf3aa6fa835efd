"""The only module that imports mlflow: one run a stage, found again by content.

Runs go to ``MLFLOW_TRACKING_URI`` or, if that is not set, to ``mlflow.db`` at the project's root.
``HALLMARK_TRACKING=off`` records nothing.  Files are known by the hash that DVC gives them: a run
carries ``dep.PATH`` and ``out.PATH`` tags, so that any clone that reaches the same store finds the
run behind a file, whoever made it and whether or not DVC restored it from its cache.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hallmark import __version__, artifacts, provenance
from hallmark.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EPOCHS = "training/"
"""Prefix of per-epoch metrics; what has another name is a result of the whole run."""
MODEL_FILES = ("model.json", "model_index.json")
"""A folder with one of these is a model: Hallmark's and diffusers' formats."""
RETRY_SECONDS = 300
"""How long a store that stopped answering is left alone, so that waiting for it does not stall training."""


class Run:
    """A stage's run.  This base class records nothing."""

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers (others are ignored) in one call.

        Args:
            step: the epoch; without it the values are results of the whole run, also of its model.
        """

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a small file: a picture, a table."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run, e.g. with a key's commitment."""

    def register_model(self, path: Path, name: str) -> None:
        """Register the model folder ``path``, which DVC owns, under ``name``; its bytes are not copied."""


@contextmanager
def run(
    stage: str,
    *,
    variant: str | None,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    params: Mapping[str, Any],
    environment: Mapping[str, str],
    report: Path | None = None,
) -> Iterator[Run]:
    """Record everything inside as one MLflow run.

    Args:
        inputs, outputs: hashed before and after the block; those that do not exist are left out.
        report: a folder whose files and folders are outputs as well.

    Raises:
        UserError: the tracking store does not answer; raised before the block runs.  A store that
            fails later costs a warning, never the work inside the block.
    """

    def written() -> list[Path]:
        return [*outputs, *(sorted(report.iterdir()) if report and report.is_dir() else ())]

    client = connect() if enabled() else None
    if client is None:
        yield Run()
        return
    with _answering():
        recorded = _StoredRun(client, stage, variant, inputs, written)
        recorded.describe(params, environment)
    try:
        yield recorded
    except BaseException as error:
        # KeyboardInterrupt, and SystemExit of a terminated process.
        killed = not isinstance(error, Exception)
        recorded.finish("KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}")
        raise
    recorded.finish("FINISHED")


def enabled() -> bool:
    """Whether this process records runs: ``HALLMARK_TRACKING`` is not off, and it is rank 0."""
    switch = os.environ.get("HALLMARK_TRACKING", "on")
    if switch not in ("on", "off"):
        raise UserError(f"HALLMARK_TRACKING: wants on or off, not '{switch}'")
    return switch == "on" and os.environ.get("RANK", "0") == "0"


def prepare() -> str:
    """Create the store if it is not there yet; return the experiment's id.

    Raises:
        UserError: it cannot be created, or MLflow is not installed.
    """
    client = connect()
    if client is None:
        raise UserError("MLflow is not installed; pip install 'hallmark[pipeline]'")
    with _answering():
        return _experiment(client)


def store() -> str:
    """URI of the tracking store; relative SQLite paths are taken from the project's root."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///mlflow.db"
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{provenance.root() / path}"


def store_name() -> str:
    """The store for a message: without credentials, and relative where it is inside the project."""
    return provenance.public(store()).replace(f"sqlite:///{provenance.root()}/", "").replace("sqlite:///", "")


class _StoredRun(Run):
    """A run in the store.

    What a failing store did not take waits in order and is sent again later, at the latest at the end.
    """

    def __init__(
        self, client: MlflowClient, stage: str, variant: str | None, inputs: Sequence[Path], written: Callable[[], Any]
    ) -> None:
        self.client, self.written = client, written
        self.inputs = provenance.hashes(inputs)
        self.stage, self.name = stage, f"{stage}@{variant}" if variant else stage
        self.started = time.monotonic()
        self.params: dict[str, str] = {}
        self.models: list[str] = []
        self.results: dict[str, float] = {}
        self.unsent: list[Callable[[], None]] = []
        self.retry_at: float | None = None
        self.warned = False
        self.experiment = _experiment(client)
        self._sweep()
        commit, dirty = provenance.commit() or (None, False)
        tags = {
            "mlflow.user": provenance.user(),
            "mlflow.source.name": f"stages/{stage}.py",  # the runs table shows what follows the last slash
            "mlflow.note.content": f"`{provenance.public(' '.join(['python -m hallmark', *sys.argv[1:]]))}`",
            "mlflow.source.type": "LOCAL",
            "stage": stage,
            "variant": variant,
            "dvc.stage": os.environ.get("DVC_STAGE", self.name),
            "dvc.experiment": os.environ.get("DVC_EXP_NAME"),
            "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
            "host": platform.node(),
            "process": provenance.process(os.getpid()),
            "git.commit": commit,
            "git.dirty": str(dirty).lower() if commit else None,
            "mlflow.source.git.commit": commit,  # the column "Version" of the runs table
        }
        self.id = client.create_run(
            self.experiment, run_name=self.name, tags={k: v for k, v in tags.items() if v}
        ).info.run_id

    def describe(self, params: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Log what is known before the work starts."""
        from mlflow.entities import Param  # noqa: PLC0415 - mlflow takes 1.4 s to import

        self.params = {key(name): str(value)[:6000] for name, value in params.items()}
        for part in _parts([Param(name, value) for name, value in self.params.items()], 100):
            self.client.log_batch(self.id, params=part)
        tags = {f"env.{name}": value for name, value in environment.items()} | {"env.hallmark": __version__}
        self._tag(tags | provenance.tags("dep", self.inputs))
        self._link_inputs()

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        numbers = {key(name): float(value) for name, value in values.items() if isinstance(value, int | float)}
        if step is None:
            # Kept until the end: by then the model is known to which they belong.
            self.results.update(numbers)
        else:
            now = int(time.time() * 1000)
            self._send(lambda: self._batch(numbers, now, step))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._send(lambda: self.client.log_artifact(self.id, str(path), folder))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._send(lambda: self._tag(tags))

    def register_model(self, path: Path, name: str) -> None:
        md5 = artifacts.md5(path)
        self._send(lambda: self._register(path, name, md5))

    def finish(self, status: str, error: str = "") -> None:
        """Log results and hashes of the outputs, and end the run; never raises because of the store."""
        self.results["duration_s"] = round(time.monotonic() - self.started, 2)
        tags = {"error": error.split("\n", 1)[0][:500]}
        if status == "FINISHED":
            tags = provenance.tags("out", provenance.hashes(self.written()))
        self.retry_at = None  # the last chance: wait no longer
        now = int(time.time() * 1000)
        self._send(lambda: self._batch(self.results, now, 0, self.models[0] if len(self.models) == 1 else None))
        self._send(lambda: self._tag(tags))
        self._send(lambda: self.client.set_terminated(self.id, status))

    def _send(self, call: Callable[[], None]) -> None:
        self.unsent.append(call)
        if self.retry_at is not None and time.monotonic() < self.retry_at:
            return
        while self.unsent:
            try:
                self.unsent[0]()
            except Exception as error:  # whatever the store's fault is, the stage's work comes first
                if (
                    isinstance(error, FileNotFoundError)
                    or getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
                ):
                    _warn(f"not recorded in run {self.name}: {_reason(error)}")  # sending it again would not help
                else:
                    if not self.warned:
                        _warn(
                            f"{failure(error)}; the stage goes on, its run stays incomplete unless the store recovers"
                        )
                    self.warned, self.retry_at = True, time.monotonic() + RETRY_SECONDS
                    return
            del self.unsent[0]
        self.retry_at = None

    def _batch(self, numbers: Mapping[str, float], timestamp: int, step: int, model: str | None = None) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        metrics = [Metric(name, value, timestamp, step, model_id=model) for name, value in numbers.items()]
        for part in _parts(metrics, 1000):
            self.client.log_batch(self.id, metrics=part)

    def _tag(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag  # noqa: PLC0415

        for part in _parts([RunTag(key(name), str(value)[:8000]) for name, value in tags.items()], 100):
            self.client.log_batch(self.id, tags=part)

    def _link_inputs(self) -> None:
        """Show the models and data sets that the stage reads on the run's page."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput  # noqa: PLC0415

        models, datasets = [], []
        for path, md5 in self.inputs.items():
            folders = sorted({found.parent for name in MODEL_FILES for found in path.rglob(name)})
            known = (self._model(md5 if folder == path else artifacts.md5(folder)) for folder in folders)
            models += [LoggedModelInput(model_id) for model_id in known if model_id]
            if not folders and path.suffix != ".json" and path.parts[0] not in ("src", "stages"):
                name = provenance.relative(path.with_suffix("") if path.suffix == ".safetensors" else path)
                role = InputTag("mlflow.data.context", path.stem)
                source = json.dumps({"path": provenance.relative(path)})
                datasets.append(DatasetInput(Dataset(name, md5, "dvc", source), [role]))
        if models or datasets:
            self.client.log_inputs(self.id, datasets or None, models or None)

    def _model(self, md5: str) -> str | None:
        found = self.client.search_logged_models([self.experiment], f"tags.md5 = '{md5}'", max_results=1)
        return found[0].model_id if found else None

    def _register(self, path: Path, name: str, md5: str) -> None:
        """One logged model and one version a content: forcing a stage again adds neither."""
        from mlflow.entities import LoggedModelOutput  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        name = re.sub(r"[^\w\- ]", "-", name)  # MLflow takes no others
        tags = {"md5": md5, "path": provenance.relative(path), "stage": self.name}
        model = self._model(md5)
        if model is None:
            external = tags | {"mlflow.model.isExternal": "true"}
            params = {name: value[:250] for name, value in self.params.items()}
            model = self.client.create_logged_model(
                self.experiment, name, self.id, tags=external, params=params, model_type=self.stage
            ).model_id
            self.client.finalize_logged_model(model, "READY")
        self.client.log_outputs(self.id, [LoggedModelOutput(model, 0)])
        with contextlib.suppress(MlflowException):  # it is there already
            about = f"`{provenance.relative(path)}`, written by {self.name}; DVC keeps its bytes under the tag md5."
            self.client.create_registered_model(name, {"stage": self.stage}, about)
        if not self.client.search_model_versions(f"name = '{name}' and tags.md5 = '{md5}'"):
            made = self.client.create_model_version(name, f"models:/{model}", self.id, tags, model_id=model)
            # The logged model's page reads from this tag that it is registered.
            versions = json.dumps([{"name": name, "version": made.version}])
            self.client.set_logged_model_tags(model, {"mlflow.modelVersions": versions})
        self.models.append(model)

    def _sweep(self) -> None:
        """End runs of this stage that were killed on this host and still count as running."""
        stage = os.environ.get("DVC_STAGE", self.name)
        query = f"attributes.status = 'RUNNING' and tags.host = '{platform.node()}' and tags.`dvc.stage` = '{stage}'"
        for old in self.client.search_runs([self.experiment], query):
            process = old.data.tags.get("process", "0")
            if provenance.process(int(process.split()[0])) != process:
                self.client.set_tag(old.info.run_id, "error", "the process was killed")
                self.client.set_terminated(old.info.run_id, "KILLED")


def connect() -> MlflowClient | None:
    """A client that fails within seconds, or None where MLflow is not installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in {"MAX_RETRIES": "1", "BACKOFF_FACTOR": "1", "BACKOFF_JITTER": "0", "TIMEOUT": "10"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow  # noqa: PLC0415
        except ImportError:
            _warn("MLflow is not installed, so no run is recorded; pip install 'hallmark[pipeline]'")
            return None
    for noisy in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with _answering(), _lock():
        # Global as well: the SQLite registry looks logged models up there, whatever the client's URI.
        mlflow.set_tracking_uri(store())
        return mlflow.MlflowClient(store(), registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or store())


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise UserError(f"{failure(error)}; mend MLFLOW_TRACKING_URI or set HALLMARK_TRACKING=off") from error


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the SQLite store's lock file: two processes that create one database at once break it."""
    path = store().removeprefix("sqlite:///")
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:  # Windows
        path = store()
    if path == store():
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # pyright: ignore[reportPossiblyUnboundVariable]
        yield


def _experiment(client: MlflowClient) -> str:
    """Id of the experiment, created if need be; pictures lie beside a SQLite store."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "hallmark"
    with _lock():
        found = client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        path = store().removeprefix("sqlite:///")
        beside = None if path == store() else (Path(path).parent / "mlartifacts" / name).as_uri()
        try:
            # The kind opens the pages of model training; without it the UI takes us for a chat agent.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client.create_experiment(name, artifact_location=beside, tags=kind)
        except Exception:  # another client of the server was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id


def key(name: str) -> str:
    """``name`` with only the characters that MLflow takes in names."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def failure(error: BaseException) -> str:
    """Which store failed and why, for a message."""
    return f"tracking store {store_name()} does not answer ({_reason(error)})"


def _reason(error: BaseException) -> str:
    cause = re.search(r"\[Errno -?\d+\] ([^\"')]+)\)?\"\)", str(error))  # deep inside urllib3's text
    line = cause[1] if cause else str(error).strip().split("\n", 1)[0]
    return re.sub(r"//[^/@\s]*@", "//", line)[:200] or type(error).__name__


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    """What MLflow takes in one call."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _warn(message: str) -> None:
    sys.stderr.write(f"hallmark: {message}\n")
