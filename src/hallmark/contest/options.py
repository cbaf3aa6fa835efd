"""Options that the contests' commands have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Option = Callable[[Command], Command]
LOCAL = ("jobs", "keys")
"""Options that a worker does not get: it does one task in one process."""


@dataclass(frozen=True)
class Common:
    """What every contest's command is told.

    Attributes:
        params: the contest's parameter file; ``changes`` to it: ``SECTION.NAME=VALUE``.
        out: folder of the results.  raw: of downloaded data sets.  work: of what can be made again.
        jobs: tasks worked on at once.
        seeds: in place of the plan's, if any.
        table: whether to write the tables at the end.
        keys: of the tasks that a worker gets; empty: all.
        words: the options that a worker gets as well, by name; each a value or a tuple of values.
    """

    params: Path
    changes: tuple[str, ...]
    out: Path
    raw: Path
    work: Path
    jobs: int
    seeds: tuple[int, ...]
    table: bool
    keys: tuple[str, ...]
    words: Mapping[str, object]

    def chosen(self, tasks: Iterable[Any]) -> list[Any]:
        """Those of the keys that a worker got."""
        return [task for task in tasks if not self.keys or task.key in self.keys]


def contest(name: str, *, tasks: str, table: str = "cells, contest.csv, contest.md, pictures") -> Option[Any]:
    """The options of a contest's command, which gets them as its first argument, a :class:`Common`.

    Args:
        name: of its parameter file in contest/, and of its folders of results and of work.
        tasks: what is worked on, in the plural.
        table: what is written.
    """
    results = "contest" if name == "params" else name
    shared = (
        params_option(f"contest/{name}.yaml"),
        out_option(f"docs/results/{results}", f"Folder to write: {table}."),
        path_option("--raw", "data/raw", "Folder of downloaded data sets."),
        path_option("--work", f".hallmark/{results}", "Folder of what can be made again."),
        click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 256),
                     help=f"{tasks.capitalize()} worked on at once, each in a process."),
        click.option("--seed", "seeds", multiple=True, type=click.IntRange(0),
                     help="In place of the plan's; may be repeated."),
        set_option(),
        click.option("--table/--no-table", default=True, show_default=True,
                     help="Write the tables and pictures at the end."),
        click.option("--only", "keys", multiple=True, hidden=True,
                     help=f"Only those {tasks}, by key: what a worker gets."),
    )  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def main(  # noqa: PLR0917 - click passes options by name
            params: Path,
            changes: tuple[str, ...],
            out: Path,
            raw: Path,
            work: Path,
            jobs: int,
            seeds: tuple[int, ...],
            table: bool,
            keys: tuple[str, ...],
            **own: Any,
        ) -> Any:
            words = _words(click.get_current_context())
            return command(Common(params, changes, out, raw, work, jobs, seeds, table, keys, words), **own)

        return functools.reduce(lambda wrapped, option: option(wrapped), reversed(shared), main)

    return decorate


def _words(context: click.Context) -> dict[str, object]:
    """The options as given or by default, but for flags and what is :data:`LOCAL`."""
    return {
        option.opts[0]: context.params[option.name]
        for option in context.command.params
        if isinstance(option, click.Option) and option.name and not option.is_flag and option.name not in LOCAL
    }


def path_option(name: str, default: str, text: str) -> Option[Any]:
    """A path with a default."""
    return click.option(name, default=default, show_default=True, help=text, type=click.Path(path_type=Path))


def params_option(default: str, text: str = "The contest's parameter file.") -> Option[Any]:
    """``--params``."""
    return path_option("--params", default, text)


def out_option(default: str, text: str) -> Option[Any]:
    """``--out``."""
    return path_option("--out", default, text)


def only_this(name: str, variable: str) -> Option[Any]:
    """An option, repeated, that takes names of the plan: ``variable``."""
    return click.option(name, variable, multiple=True, help="Only this one, by its name in the plan; may be repeated.")


def set_option() -> Option[Any]:
    """``--set``, repeated: ``changes``."""
    text = "Another parameter; may be repeated."
    return click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help=text)


def cells_option() -> Option[Any]:
    """``--cells``, repeated: ``folders``; none: those of ``--out``."""
    return click.option(
        "--cells",
        "folders",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Folder of a contest's cells; may be repeated.  [default: OUT/cells]",
    )
