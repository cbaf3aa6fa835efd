"""A suspect behind a real `mlflow models serve` process gets the same labels as in memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hallmark import models, runtime, suspects
from hallmark.config import Architecture, RuntimeConfig
from hallmark.errors import UserError
from tests.unit.conftest import toy_images

SERVED = """
from pathlib import Path

import mlflow
import numpy as np
import torch

from hallmark import models, runtime
from hallmark.config import RuntimeConfig


class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.runtime = runtime.start(RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0))
        self.network = models.load(Path(context.artifacts["model"]), self.runtime)

    def predict(self, context, model_input, params=None):
        images = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
        return models.logits(self.network, images, self.runtime).numpy()


mlflow.models.set_model(Served())
"""
"""A model from code: it loads safetensors, and MLflow pickles nothing."""
WAIT = 180
DATA = toy_images(90)
CPU = RuntimeConfig(device="cpu", threads=1, precision="fp32", seed=0)


@pytest.fixture(scope="module")
def network() -> models.Network:
    run = runtime.start(CPU)
    network = models.build(Architecture(name="cnn9", width=4), DATA.images, DATA.classes, run, "x").eval()
    head = network.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.bias.sub_(models.logits(network, DATA.images, run).mean(0))
    return network


@pytest.fixture(scope="module")
def url(network: models.Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `mlflow models serve` answers."""
    folder = tmp_path_factory.mktemp("served")
    models.save(network, folder / "network")
    (folder / "served.py").write_text(SERVED, encoding="utf-8")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "NO_PROXY": "127.0.0.1",
    }
    save = (
        "import mlflow, numpy as np; from mlflow.models import ModelSignature; "
        "from mlflow.types import Schema, TensorSpec; "
        "signature = ModelSignature(Schema([TensorSpec(np.dtype('float32'), (-1, 1, 8, 8))])); "
        "mlflow.pyfunc.save_model('model', python_model='served.py', artifacts={'model': 'network'}, "
        "signature=signature, pip_requirements=[])"
    )
    subprocess.run([sys.executable, "-c", save], cwd=folder, env=environment, check=True)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "--model-uri", "model", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--env-manager", "local"],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/ping", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # it starts the server as a process of its own
        process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"mlflow models serve did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")


def test_mlflows_scoring_server(network: models.Network, url: str, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    run = runtime.start(CPU)
    expected = models.logits(network, DATA.images, run)
    block = {"kind": "http", "form": "mlflow", "url": url, "batch": 16, "in_flight": 2, "budget": 90}
    suspect = suspects.build("served", block, DATA.classes, DATA.shape, run)
    with suspects.recording(suspect, tmp_path / "t.jsonl", DATA.shape, DATA.classes) as recorded:
        answer = recorded.scores(DATA.images)
    assert torch.equal(answer.labels, expected.argmax(1))
    assert answer.probabilities is not None
    np.testing.assert_allclose(answer.probabilities.numpy(), expected.softmax(1).numpy(), atol=1e-5)
    assert len(suspects.verify(tmp_path / "t.jsonl").records) == 90


def test_what_the_scoring_server_refuses_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    run = runtime.start(CPU)
    block = {"kind": "http", "form": "mlflow", "url": url, "input": {"size": [9, 9]}}
    suspect = suspects.build("served", block, DATA.classes, DATA.shape, run)
    with pytest.raises(UserError, match=r"request 1 of 1 .* HTTP 400"):
        suspect.predict(DATA.images[:10])
