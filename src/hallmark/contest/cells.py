"""The files of measured cells: one JSON file each, written whole, so that an interrupted contest loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hallmark import artifacts


class Task(Protocol):
    """What has cells: a victim and its thieves, a target and its removals."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The beginning of its cells' file names."""
        ...

    @property
    def seed(self) -> int: ...

    @property
    def cells(self) -> tuple[str, ...]:
        """Their names."""
        ...


Task_contra = TypeVar("Task_contra", bound=Task, contravariant=True)


class Plan(Protocol[Task_contra]):
    """The parameters of a contest of such tasks."""

    def cell_hash(self, each: Task_contra, cell: str, /) -> str: ...


def cell_file(each: Task, cell: str, out: Path) -> Path:
    """Where a finished cell is written."""
    # The plus is in no name, so that no two cells share a file.
    return out / "cells" / f"{'+'.join([*each.parts, cell])}+seed{each.seed}.json"


def finished(plan: Plan[Task_contra], each: Task_contra, out: Path) -> set[str]:
    """The task's cells that are measured with the parameters as they are."""
    known = {cell: cell_file(each, cell, out) for cell in each.cells}
    return {
        cell
        for cell, path in known.items()
        if path.is_file() and artifacts.read_json(path).get("hash") == plan.cell_hash(each, cell)
    }


def write(path: Path, hashed: str, row: Mapping[str, Any]) -> None:
    """Write a cell, atomically.

    Args:
        hashed: the cell's hash; empty: measure it again next time.
        row: under the contest's COLUMNS.
    """
    artifacts.write_json(path, {"hash": hashed, "row": dict(row)})
