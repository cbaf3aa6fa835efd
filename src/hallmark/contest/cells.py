"""The files of measured cells: one JSON file each, written whole, so that an interrupted contest loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hallmark import artifacts
from hallmark.contest.common import guarded
from hallmark.contest.rows import Row
from hallmark.progress import Advance


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


Cast = TypeVar("Cast")
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


def left(plan: Plan[Task_contra], each: Task_contra, out: Path) -> list[str]:
    """The task's other cells, in their order."""
    done = finished(plan, each, out)
    return [cell for cell in each.cells if cell not in done]


def fill(
    plan: Plan[Task_contra],
    each: Task_contra,
    todo: Sequence[str],
    out: Path,
    *,
    row: Callable[[str], Row],
    play: Callable[[], tuple[Cast, Row]],
    measure: Callable[[Cast, str], Row],
    advance: Advance,
) -> None:
    """Measure a task's cells; each is written as soon as it is measured.

    What fails is written with its error, and measured again next time if that is a bug.

    Args:
        todo: names of the cells.
        row: what is known of a cell before it is measured, under all of the contest's columns.
        play: makes what the cells share, and figures that stand in all of their rows.
        measure: a cell's own figures, from what ``play`` made.
        advance: told of every cell.
    """
    played, failure = guarded(play)
    for cell in todo:
        figures: Row = {} if played is None else dict(played[1])
        measured = None
        if played is not None:
            measured, failure = guarded(lambda cell=cell: measure(played[0], cell))
        figures |= {"error": failure.text} if measured is None else measured
        hashed = plan.cell_hash(each, cell) if measured is not None or failure.users else ""
        write(cell_file(each, cell, out), hashed, {**row(cell), **figures})
        advance(1)


def write(path: Path, hashed: str, row: Mapping[str, Any]) -> None:
    """Write a cell, atomically.

    Args:
        hashed: the cell's hash; empty: measure it again next time.
        row: under the contest's COLUMNS.
    """
    artifacts.write_json(path, {"hash": hashed, "row": dict(row)})
