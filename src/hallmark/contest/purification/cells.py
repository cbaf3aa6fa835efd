"""The files of measured cells: one JSON file a set, rewritten whole, so that an interrupted contest loses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hallmark import artifacts
from hallmark.contest.purification.plan import Cell, Plan, Set


def cells_file(each: Set, out: Path) -> Path:
    """Where a set's finished cells are written: a folder an attack, which contest/dvc.yaml names."""
    return out / "cells" / each.name / f"{each.key}.json"


def finished(plan: Plan, each: Set, out: Path) -> dict[str, dict[str, Any]]:
    """The set's cells that are measured with the parameters as they are, by name: rows under :data:`COLUMNS`.

    None if they come from several :func:`runs`, which do not compare.
    """
    path = cells_file(each, out)
    stored = artifacts.read_json(path)["cells"] if path.is_file() else {}
    wanted = {cell.name: plan.cell_hash(each, cell) for cell in each.cells}
    found = {name: stored[name]["row"] for name, value in wanted.items() if stored.get(name, {}).get("hash") == value}
    return found if len(runs(found.values())) < 2 else {}


def runs(rows: Iterable[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
    """What tells runs of one set apart: another machine, or other versions, make other models and other poisons."""
    made = (row for row in rows if row["clean_accuracy"] is not None)
    return {tuple(row[column] for column in ("clean_accuracy", "floor", "target")) for row in made}


def forget(each: Set, out: Path) -> None:
    """Remove the set's chosen cells, so that they are measured again."""
    path = cells_file(each, out)
    if path.is_file():
        stored = artifacts.read_json(path)
        names = {cell.name for cell in each.cells}
        kept = {name: value for name, value in stored["cells"].items() if name not in names}
        artifacts.write_json(path, {**stored, "cells": kept})


def write_cell(path: Path, each: Set, cell: Cell, hashed: str, row: Mapping[str, Any]) -> None:
    """Add a cell to its set's file, or put it in the place of the one there.

    Args:
        hashed: the cell's hash; empty: measure it again next time.
        row: under :data:`hallmark.contest.purification.plan.COLUMNS`.
    """
    stored = artifacts.read_json(path) if path.is_file() else {"set": each.key, "cells": {}}
    stored["cells"][cell.name] = {"hash": hashed, "row": dict(row)}
    artifacts.write_json(path, stored)
