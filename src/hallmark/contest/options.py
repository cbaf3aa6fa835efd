"""What the contests' command lines share: options, and the work done here or by processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from hallmark.contest import workers
from hallmark.contest.workers import Each
from hallmark.progress import Advance, progress

Command = Callable[..., Any]


def places(*, params: str, out: str, work: str, task: str) -> Callable[[Command], Command]:
    """Options ``--params``, ``--out``, ``--raw``, ``--work`` and ``--jobs`` with a contest's own defaults.

    Args:
        task: what a process works on, for ``--jobs``: "victims".
    """

    def decorate(command: Command) -> Command:
        folder = click.Path(path_type=Path)
        for option in (
            click.option(
                "--jobs",
                default=1,
                show_default=True,
                help=f"{task.capitalize()} worked on at once, each in a process.",
                type=click.IntRange(1, 256),
            ),
            click.option(
                "--work", default=work, show_default=True, help="Folder of what can be made again.", type=folder
            ),
            click.option(
                "--raw", default="data/raw", show_default=True, help="Folder of downloaded data sets.", type=folder
            ),
            click.option(
                "--out",
                default=out,
                show_default=True,
                type=folder,
                help="Folder to write: cells, contest.csv, contest.md, pictures.",
            ),
            click.option(
                "--params", default=params, show_default=True, help="The contest's parameter file.", type=folder
            ),
        ):
            command = option(command)
        return command

    return decorate


def seeds(command: Command) -> Command:
    """Option ``--seed``."""
    return click.option(
        "--seed", "seeds", multiple=True, type=click.IntRange(0), help="In place of the plan's; may be repeated."
    )(command)


def only(
    name: str, variable: str, text: str = "Only this one, by its name in the plan", **more: Any
) -> Callable[[Command], Command]:
    """An option that restricts the plan."""
    return click.option(f"--{name}", variable, multiple=True, help=f"{text}; may be repeated.", **more)


def changes(command: Command) -> Command:
    """Option ``--set``."""
    return click.option(
        "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another parameter; may be repeated."
    )(command)


def ending(worker: str) -> Callable[[Command], Command]:
    """Options ``--table`` and, hidden, ``--only``.

    Args:
        worker: what a worker gets the key of.
    """

    def decorate(command: Command) -> Command:
        text = f"Only the {worker} of this key: what a worker gets."
        command = click.option("--only", "keys", multiple=True, hidden=True, help=text)(command)
        return click.option(
            "--table/--no-table", default=True, show_default=True, help="Write the tables and pictures at the end."
        )(command)

    return decorate


def words(*given: tuple[str, Sequence[Any]]) -> list[str]:
    """Options that may be repeated as the words of a command line: ``("--seed", (1, 2))`` becomes four words."""
    return [str(word) for name, values in given for value in values for word in (name, value)]


def measure(
    name: str,
    left: Sequence[Each],
    *,
    total: int,
    done: int,
    one: Callable[[Each, Advance], None],
    command: Sequence[str],
    needs: Callable[[Each], set[Path]],
    finished: Callable[[Each], int],
    work: Path,
    jobs: int,
    threads: int,
) -> None:
    """Measure the tasks that are left, here or, several at once, in processes; with a progress bar.

    Args:
        name: the contest's command.
        total, done: cells of all tasks, and those of them that are measured already.
        one: measures a task in this process.
        command: the words after ``name`` that make a worker measure as this process would.
        needs, finished, work, jobs, threads: see :func:`hallmark.contest.workers.share`.

    Raises:
        UserError: a worker failed, after the others' work is done.
    """
    with progress(total, name, "cell") as advance:
        advance(done)
        if jobs == 1 or len(left) < 2:
            for each in left:
                one(each, advance)
        else:
            workers.share(
                left,
                [name, *command, "--no-table"],
                needs=needs,
                finished=finished,
                work=work,
                jobs=jobs,
                threads=threads,
                advance=advance,
            )
