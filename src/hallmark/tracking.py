"""The only module that imports mlflow: one run a stage, found again by content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Run:
    """A stage's run.  This base class records nothing."""

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers (others are ignored) in one call."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a small file: a picture, a table."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run, e.g. with a key's commitment."""

    def register_model(self, path: Path, name: str) -> None:
        """Register the model folder ``path``, which DVC owns, under ``name``."""


@contextmanager
def run(
    stage: str,
    *,
    variant: str | None,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    params: Mapping[str, Any],
    environment: Mapping[str, str],
) -> Iterator[Run]:
    """Record everything inside as one MLflow run."""
    yield Run()
