"""What contests share: hashes of parameters, changes from the command line, failures of cells, tables in Markdown."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import statistics
import sys
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark import artifacts, config
from hallmark.errors import UserError


def digest(values: Any) -> str:
    """SHA-256 of plain values, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def override(values: dict[str, Any], change: str) -> None:
    """Set one parameter of a parameter file's content in place.

    Args:
        change: ``SECTION.NAME=VALUE``, the value in YAML.

    Raises:
        UserError: no such form, or a part of the name is no block.
    """
    from ruamel.yaml import YAML, YAMLError  # noqa: PLC0415 - needed for this alone

    name, sign, text = change.partition("=")
    *blocks, last = name.split(".")
    if not sign or not blocks or not all([*blocks, last]):
        raise UserError(f"--set {change}: wants SECTION.NAME=VALUE")
    place: Any = values
    for block in blocks:
        place = place.get(block) if isinstance(place, Mapping) else None
    if not isinstance(place, dict):
        raise UserError(f"--set {change}: there is no block '{'.'.join(blocks)}' in the parameter file")
    try:
        place[last] = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UserError(f"--set {change}: the value is no YAML") from None


def read_sections(path: Path, changes: Sequence[str], kinds: Mapping[str, type[config.Params]]) -> dict[str, Any]:
    """Sections of a parameter file, typed, by name; ``changes`` as for :func:`override`.

    Raises:
        UserError: a parameter is wrong or missing.
    """
    values = config.read_params(path)
    for change in changes:
        override(values, change)
    return {name: config.section(values, name, kind, path) for name, kind in kinds.items()}


@dataclass(frozen=True)
class Failure:
    """Why there is no result; ``users``: it is an answer and no bug, which a later run may find mended."""

    text: str = ""
    users: bool = True


def guarded(function: Callable[[], Any]) -> tuple[Any, Failure]:
    """The function's result, or None and why: one cell that fails must not cost the others."""
    try:
        return function(), Failure()
    except UserError as error:
        return None, Failure(str(error))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return None, Failure(f"bug: {type(error).__name__}: {' '.join(str(error).split())}"[:300], users=False)


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made if it is not there; of several processes that make it the first one's stays."""
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir(parents=True)
        try:
            make(temporary)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def mean_spread(values: Sequence[float], digits: int = 1) -> str:
    """``mean ± standard deviation`` (of the sample, from two values on), or ``-``."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def mean_of(rows: Iterable[Mapping[str, Any]], name: str) -> float:
    """Mean of a column over the rows that have it; nan if none has."""
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.fmean(values) if values else float("nan")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, an empty one at the end."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(str(cell).replace('|', '/').split()) for cell in cells)} |"

    return [line(header), f"|{'---|' * len(header)}", *map(line, rows), ""]


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


def prefixed(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as columns ``MODEL_NAME``."""
    return {f"{model}_{name}": value for name, value in values.items()}


def network_name(architecture: Any) -> str | None:
    """``NAME-WIDTH`` of an architecture block; None where there is none."""
    if not isinstance(architecture, Mapping) or "name" not in architecture:
        return None
    width = architecture.get("width")
    return f"{architecture['name']}-{width}" if width else str(architecture["name"])


def read_rows(
    folders: Sequence[Path], columns: Sequence[str], order: Sequence[str], hashes: Callable[[int], set[str]]
) -> tuple[list[dict[str, Any]], int]:
    """The rows of files of one cell each, sorted by ``order``, and how many were left out.

    Args:
        hashes: of all cells of a seed with the parameters as they are; a cell that has another is left out.

    Raises:
        UserError: a file is damaged.
    """
    known = functools.cache(hashes)
    rows, stale = [], 0
    for path in sorted(path for folder in folders for path in folder.rglob("*.json")):
        try:
            cell = artifacts.read_json(path)
            row = {column: cell["row"][column] for column in columns}
            # A cell without a hash ended in a bug, and is shown until it is measured.
            if cell["hash"] in known(row["seed"]) or not cell["hash"]:
                rows.append(row)
            else:
                stale += 1
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a file of a cell ({error!r}); remove it and run the contest again") from None
    return sorted(rows, key=lambda row: [sortable(row[name]) for name in order]), stale


def written(name: str, rows: Sequence[Mapping[str, Any]], stale: int, out: Path) -> str:
    """A line for people on the tables of such rows."""
    failed = sum(row["error"] is not None for row in rows)
    left = f"; {failed:,} of them without a result" if failed else ""
    left += f"; {stale:,} cells of other parameters left out" if stale else ""
    return f"{name}: {len(rows):,} rows in {out / 'contest.csv'} and {out / 'contest.md'}{left}"
