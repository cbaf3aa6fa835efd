"""Options that the contests' commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]


def path_option(name: str, default: str, text: str) -> Option[Any]:
    """A path with a default."""
    return click.option(name, default=default, show_default=True, help=text, type=click.Path(path_type=Path))


def params_option(default: str, text: str = "The contest's parameter file.") -> Option[Any]:
    """``--params``."""
    return path_option("--params", default, text)


def out_option(default: str, text: str = "Folder to write: cells, contest.csv, contest.md, pictures.") -> Option[Any]:
    """``--out``."""
    return path_option("--out", default, text)


def raw_option() -> Option[Any]:
    """``--raw``."""
    return path_option("--raw", "data/raw", "Folder of downloaded data sets.")


def work_option(default: str) -> Option[Any]:
    """``--work``."""
    return path_option("--work", default, "Folder of what can be made again.")


def jobs_option(tasks: str) -> Option[Any]:
    """``--jobs``; ``tasks``: what is worked on, in the plural."""
    text = f"{tasks} worked on at once, each in a process."
    return click.option("--jobs", default=1, show_default=True, help=text, type=click.IntRange(1, 256))


def seed_option() -> Option[Any]:
    """``--seed``, repeated: ``seeds``."""
    text = "In place of the plan's; may be repeated."
    return click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help=text)


def only_this(name: str, variable: str) -> Option[Any]:
    """An option, repeated, that takes names of the plan: ``variable``."""
    return click.option(name, variable, multiple=True, help="Only this one, by its name in the plan; may be repeated.")


def set_option() -> Option[Any]:
    """``--set``, repeated: ``changes``."""
    text = "Another parameter; may be repeated."
    return click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help=text)


def table_option() -> Option[Any]:
    """``--table/--no-table``."""
    text = "Write the tables and pictures at the end."
    return click.option("--table/--no-table", default=True, show_default=True, help=text)


def key_option(task: str) -> Option[Any]:
    """``--only``, repeated and hidden: ``keys``; ``task``: what a worker gets."""
    return click.option(
        "--only", "keys", multiple=True, hidden=True, help=f"Only the {task} of this key: what a worker gets."
    )


def cells_option() -> Option[Any]:
    """``--cells``, repeated and required: ``folders``."""
    return click.option(
        "--cells",
        "folders",
        multiple=True,
        required=True,
        type=click.Path(path_type=Path),
        help="Folder of a contest's cells (OUT/cells); may be repeated.",
    )
