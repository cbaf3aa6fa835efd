"""The files of measured cells: one JSON file each, written whole, so that an interrupted contest loses nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hallmark import artifacts


class Victim(Protocol):
    """A marked network, of images or of features, and the thieves who steal it."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def thieves(self) -> tuple[str, ...]: ...


Each_contra = TypeVar("Each_contra", bound=Victim, contravariant=True)


class Plan(Protocol[Each_contra]):
    """The parameters of a contest of such victims."""

    def cell_hash(self, each: Each_contra, thief: str) -> str: ...


def cell_file(each: Victim, thief: str, out: Path) -> Path:
    """Where a finished cell is written."""
    # The plus is in no name, so that no two cells share a file.
    return out / "cells" / f"{each.name}+{thief}+seed{each.seed}.json"


def finished(plan: Plan[Each_contra], each: Each_contra, out: Path) -> set[str]:
    """The victim's thieves whose cells are measured with the parameters as they are."""
    known = {thief: cell_file(each, thief, out) for thief in each.thieves}
    return {
        thief
        for thief, path in known.items()
        if path.is_file() and artifacts.read_json(path).get("hash") == plan.cell_hash(each, thief)
    }


def write(path: Path, hashed: str, row: Mapping[str, Any]) -> None:
    """Write a cell, atomically.

    Args:
        hashed: the cell's hash; empty: measure it again next time.
        row: under the contest's COLUMNS.
    """
    artifacts.write_json(path, {"hash": hashed, "row": dict(row)})
