"""The files of measured cells: one JSON file a model, rewritten whole, so that an interrupted contest loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hallmark import artifacts
from hallmark.contest.detection.plan import Model, Plan
from hallmark.errors import UserError


def cell_file(each: Model, out: Path) -> Path:
    """Where a model's cells are written."""
    return out / "cells" / f"{each.key}.json"


def read(plan: Plan, each: Model, out: Path) -> dict[str, Any] | None:
    """The figures of a model and of its finished cells, ``{"model": {...}, "detectors": {name: {...}}}``.

    Returns:
        what was measured with the parameters as they are; None if the model itself is not.

    Raises:
        UserError: the file is damaged.
    """
    path = cell_file(each, out)
    if not path.is_file():
        return None
    stored = artifacts.read_json(path)
    try:
        if stored["hash"] != plan.model_hash(each):
            return None
        detectors = {
            name: stored["detectors"][name]["figures"]
            for name in plan.contest.detectors
            if stored["detectors"].get(name, {}).get("hash") == plan.cell_hash(each, name)
        }
        return {"model": dict(stored["model"]), "detectors": detectors}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a file of cells ({error!r}); remove it and run the contest again") from None


def finished(plan: Plan, each: Model, out: Path) -> int:
    """How many of a model's cells are measured, the model's own figures counted as one."""
    found = read(plan, each, out)
    return 0 if found is None else 1 + len(found["detectors"])


def write(plan: Plan, each: Model, out: Path, model: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a model's figures and those of its cells, by detector, atomically."""
    cells = {name: {"hash": plan.cell_hash(each, name), "figures": figures} for name, figures in found.items()}
    artifacts.write_json(
        cell_file(each, out), {"hash": plan.model_hash(each), "model": dict(model), "detectors": cells}
    )
