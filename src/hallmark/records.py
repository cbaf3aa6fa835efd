"""Runs of the tracking store, found by the content that they wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hallmark import tracking
from hallmark.errors import UserError


@dataclass(frozen=True)
class Record:
    """A finished run, as lineage shows it."""

    run_id: str
    name: str
    started: str
    """ISO date and time, UTC."""
    commit: str | None
    dirty: bool
    environment: dict[str, str]
    metrics: dict[str, float]
    """Results of the whole run, without the per-epoch ones."""


class Records:
    """The finished runs of the store.

    Raises:
        UserError: the store does not answer.
    """

    def __init__(self) -> None:
        self.client, self.experiments = None, []
        path = tracking.store().removeprefix("sqlite:///")
        if not tracking.enabled() or (path != tracking.store() and not Path(path).exists()):
            return  # looking must not create a database
        self.client = tracking.connect()
        if self.client is not None:
            try:
                self.experiments = [e.experiment_id for e in self.client.search_experiments()]
            except Exception as error:
                raise UserError(f"{tracking.failure(error)}; mend MLFLOW_TRACKING_URI") from error

    def find(self, outputs: Mapping[str, str], inputs: Mapping[str, str]) -> Record | None:
        """The run that wrote ``outputs``: of those that agree in an output, the one whose inputs fit best.

        Args:
            outputs, inputs: from path to DVC's hash, as dvc.lock records them.
        """
        if self.client is None:
            return None
        wanted = {tracking.key(f"dep.{p}"): h for p, h in inputs.items()} | {
            tracking.key(f"out.{p}"): h for p, h in outputs.items()
        }
        for path, md5 in outputs.items():
            query = f"attributes.status = 'FINISHED' and tags.`{tracking.key(f'out.{path}')}` = '{md5}'"
            runs = self.client.search_runs(self.experiments, query, order_by=["attributes.start_time DESC"])
            if runs:
                # max() keeps the first, which is the latest, of equals.
                best = max(runs, key=lambda r: sum(r.data.tags.get(k) == v for k, v in wanted.items()))
                return _record(best)
        return None


def _record(found: Any) -> Record:
    tags = found.data.tags
    return Record(
        run_id=found.info.run_id,
        name=found.info.run_name,
        started=datetime.fromtimestamp(found.info.start_time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=tags.get("git.commit"),
        dirty=tags.get("git.dirty") == "true",
        environment={k.removeprefix("env."): v for k, v in sorted(tags.items()) if k.startswith("env.")},
        metrics={k: v for k, v in sorted(found.data.metrics.items()) if not k.startswith(tracking.EPOCHS)},
    )
