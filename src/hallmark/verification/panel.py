"""The models in Hallmark folders that a verdict needs: the pipeline's suspects and controls, and the nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hallmark import suspects
from hallmark.errors import UserError
from hallmark.progress import progress
from hallmark.runtime import Runtime
from hallmark.verification.answers import STATISTICS, read
from hallmark.verification.decision import Nulls
from hallmark.verification.questions import Questions

PANEL_COLUMNS = ("model", "accuracy", *STATISTICS, "sha256")
"""Of the table of null models: accuracy on the task questions, counts of the watermark queries, and the weights."""


def open_models(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Suspects' blocks for folders of Hallmark models."""
    return {name: {"kind": "safetensors", "path": folder.as_posix()} for name, folder in folders.items()}


def ask_nulls(questions: Questions, folder: Path, runtime: Runtime) -> tuple[list[dict[str, Any]], Nulls]:
    """Put the questions to every null model.

    Args:
        folder: one subfolder a model.

    Returns:
        one row a model, under :data:`PANEL_COLUMNS`, and the counts by statistic.

    Raises:
        UserError: fewer than two models, or one that does not fit.
    """
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    if len(folders) < 2:
        raise UserError(f"{folder}: wants at least two null models, one subfolder each; run train_nulls")
    key, table = questions.key, []
    with progress(len(folders), "null models", "model") as advance:
        for name, block in open_models(folders).items():
            suspect = suspects.build(name, block, key.classes, key.shape, runtime)
            answers = read(questions, suspect.scores(questions.images))
            counts = {statistic: int(answers.outcomes[statistic].watermark.sum()) for statistic in STATISTICS}
            weights = suspect.describe()["sha256"]["model.safetensors"]
            table.append({"model": name, "accuracy": float(answers.correct.mean()), **counts, "sha256": weights})
            advance(1)
    return table, null_counts(table)


def null_counts(table: Sequence[Mapping[str, Any]]) -> Nulls:
    """The counts in a table of null models, by statistic."""
    return {statistic: np.array([int(row[statistic]) for row in table]) for statistic in STATISTICS}
