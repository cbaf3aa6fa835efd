"""``python -m hallmark ui``: MLflow's pages on this project's runs, for this machine only."""

from __future__ import annotations

import os
import sys

import click

from hallmark import tracking


@click.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Where to listen.")
def main(port: int) -> None:
    """Serve MLflow's user interface on 127.0.0.1 until interrupted."""
    uri = tracking.store()
    if uri.startswith("http"):
        click.echo(f"The runs are on the team's server: open {tracking.store_name()}")
        return
    page = f"#/experiments/{tracking.prepare()}/runs?workflowType=machine_learning"
    click.echo(f"http://127.0.0.1:{port}/{page}  (in half a minute; Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", uri, "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    # The job runner is for MLflow's evaluation services, which nothing here uses.
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PYTHONWARNINGS"] = "ignore"
    sys.stdout.flush()
    # In place of this process, so that signals reach the server.
    os.execve(sys.executable, command, environment)
