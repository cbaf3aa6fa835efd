"""What contests' tables have in common: rows read from the files of cells, and Markdown."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hallmark import artifacts
from hallmark.errors import UserError

Row = dict[str, Any]


class Plan(Protocol):
    """A contest's parameters."""

    def hashes(self, seed: int) -> set[str]:
        """Of all cells of a seed."""
        ...


def read(
    folders: Sequence[Path], columns: Sequence[str], order: Sequence[str], plan: Plan, younger: Sequence[str] = ()
) -> tuple[list[Row], int]:
    """The rows of files of cells, sorted by ``order``, and how many were left out.

    Args:
        plan: cells that other parameters gave are left out.
        younger: columns that cells may lack which were measured before they came.

    Raises:
        UserError: there are none, one comes twice, or a file is damaged.
    """
    known = functools.cache(plan.hashes)
    rows, stale, places = [], 0, dict[Any, Path]()
    for path in sorted(path for folder in folders for path in folder.rglob("*.json")):
        try:
            stored = artifacts.read_json(path)
            for cell in stored["cells"].values() if "cells" in stored else [stored]:
                # A cell without a hash ended in a bug, and is shown until it is measured.
                if cell["hash"] in known(cell["row"]["seed"]) or not cell["hash"]:
                    row = {**dict.fromkeys(younger), **cell["row"]}
                    first = places.setdefault((cell["hash"], *(row[name] for name in order)), path)
                    if first != path:
                        raise UserError(f"{path}: {first} holds one of its cells as well; remove one of the files")
                    rows.append({column: row[column] for column in columns})
                else:
                    stale += 1
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a file of cells ({error!r}); remove it and run the contest again") from None
    if not rows:
        raise UserError(f"{', '.join(map(str, folders))}: no cells of these parameters; run the contest first")
    return sorted(rows, key=lambda row: [sortable(row[name]) for name in order]), stale


def written(name: str, rows: Sequence[Row], stale: int, out: Path) -> str:
    """A line for people on the tables of such rows."""
    failed = sum(row["error"] is not None for row in rows)
    left = f"; {failed:,} of them without a result" if failed else ""
    left += f"; {stale:,} cells of other parameters left out" if stale else ""
    return f"{name}: {len(rows):,} rows in {out / 'contest.csv'} and {out / 'contest.md'}{left}"


def heading(title: str, rows: Sequence[Row], stale: int, *text: str) -> list[str]:
    """The first lines of contest.md; ``text``: what the figures are."""
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    lines = [f"# {title}", "", f"{len(rows):,} cells, seeds {seeds}; mean ± standard deviation over the seeds."]
    lines += ["Every row is in [contest.csv](contest.csv).", *text, ""]
    return [*lines, f"{stale:,} cells that other parameters gave are left out.", ""] if stale else lines


def failures(rows: Sequence[Row], name: Callable[[Row], str]) -> list[str]:
    """The last lines of contest.md: why there are cells without figures, if there are."""
    body = [[name(row), row["error"]] for row in rows if row["error"] is not None]
    return ["## Cells without a result", "", *markdown_table(("cell", "why"), body)] if body else []


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, an empty one at the end."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(str(cell).replace('|', '/').split()) for cell in cells)} |"

    return [line(header), f"|{'---|' * len(header)}", *map(line, rows), ""]


def mean_spread(values: Sequence[float], digits: int = 1) -> str:
    """``mean ± standard deviation`` (of the sample, from two values on), or ``-``."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):z.{digits}f}{spread}"  # no zero has a sign


def mean_of(rows: Iterable[Mapping[str, Any]], name: str) -> float:
    """Mean of a column over the rows that have it; nan if none has."""
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.fmean(values) if values else float("nan")


def distinct(values: Iterable[Any]) -> list[Any]:
    """The different values in order; tuples by their parts."""
    return sorted(
        set(values), key=lambda value: [sortable(v) for v in (value if isinstance(value, tuple) else (value,))]
    )


def sortable(value: Any) -> tuple[int, float, str]:
    """Nothing before numbers before text."""
    if value is None:
        return 0, 0.0, ""
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def percent(rows: Iterable[Row], name: str) -> str:
    """Mean and spread of a column over the rows that have it, per cent; ``-`` where none has."""
    return mean_spread([100 * row[name] for row in rows if row[name] is not None])
