"""A contest's work, done here or shared out to processes of its own command, one task each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from hallmark.config import RuntimeConfig
from hallmark.contest import cells
from hallmark.contest.options import Common
from hallmark.errors import UserError
from hallmark.progress import Advance, progress

POLL = 1.0
"""Seconds between two looks at the workers."""


class Task(Protocol):
    """Anything with a key, which is a file name."""

    @property
    def key(self) -> str: ...


class TaskWithCells(Task, cells.Task, Protocol):
    """One whose cells are files of :mod:`hallmark.contest.cells`."""


class CellsPlan(cells.Plan[Any], Protocol):
    """The parameters of a contest of such tasks."""

    @property
    def runtime(self) -> RuntimeConfig: ...


Each = TypeVar("Each", bound=Task)
EachWithCells = TypeVar("EachWithCells", bound=TaskWithCells)


def measure(
    common: Common,
    name: str,
    kind: str,
    tasks: Sequence[Each],
    *,
    wanted: Callable[[Each], int],
    finished: Callable[[Each], int],
    run: Callable[[Each, Advance], object],
    needs: Callable[[Each], set[Path]],
    threads: int,
) -> None:
    """Measure what is left of a contest's tasks, with a progress bar; arguments not named here as for :func:`share`.

    Args:
        common: what the command was told.
        name: of the contest's command.
        kind: what a task is, in the plural.
        wanted: how many cells a task has.
        run: does a task in this process.

    Raises:
        UserError: as :func:`share`, or as ``run``.
    """
    tasks = common.chosen(tasks)
    total, done = sum(map(wanted, tasks)), {task.key: finished(task) for task in tasks}
    left = [task for task in tasks if done[task.key] < wanted(task)]
    click.echo(f"{name}: {len(tasks):,} {kind}, {total:,} cells, {sum(done.values()):,} measured already")
    with progress(total, name, "cell") as advance:
        advance(sum(done.values()))
        if common.jobs == 1 or len(left) < 2:
            for task in left:
                run(task, advance)
            return
        given = [
            word
            for option, value in common.words.items()
            for each in (value if isinstance(value, tuple) else (value,))
            for word in (option, str(each))
        ]
        command = [name, *given, "--no-table"]
        share(
            left,
            command,
            needs=needs,
            finished=finished,
            work=common.work,
            jobs=common.jobs,
            threads=threads,
            advance=advance,
        )


def measure_cells(
    common: Common,
    name: str,
    kind: str,
    plan: CellsPlan,
    tasks: Sequence[EachWithCells],
    *,
    run: Callable[[EachWithCells, Advance], object],
    needs: Callable[[EachWithCells], set[Path]],
) -> None:
    """:func:`measure` of tasks whose cells are files of :mod:`hallmark.contest.cells`."""
    measure(
        common,
        name,
        kind,
        tasks,
        wanted=lambda each: len(each.cells),
        finished=lambda each: len(cells.finished(plan, each, common.out)),
        run=run,
        needs=needs,
        threads=plan.runtime.threads,
    )


def share(
    tasks: Sequence[Each],
    command: Sequence[str],
    *,
    needs: Callable[[Each], set[Path]],
    finished: Callable[[Each], int],
    work: Path,
    jobs: int,
    threads: int,
    advance: Advance,
) -> None:
    """Give every task to a process ``python -m hallmark COMMAND --only KEY``, its output to ``WORK/logs``.

    What several tasks need is made by the first of them: a task waits while another makes what it needs, and tasks
    that need other things go first meanwhile.

    Args:
        needs: folders that a task makes if they are not there, and shares with others.
        finished: how many of a task's cells are measured.
        threads: of each process.
        advance: told of every cell that is finished.

    Raises:
        UserError: a worker failed, after the others' work is done.
    """
    # What a task needs is asked once: these are hashes of whole parameter files.
    waiting = [(task, needs(task)) for task in tasks]
    failed: list[str] = []
    running: dict[str, tuple[Each, set[Path], subprocess.Popen[bytes], int]] = {}
    (work / "logs").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    try:
        while waiting or running:
            coming = {path for _, needed, _, _ in running.values() for path in needed if not path.is_dir()}
            free = next((k for k, (_, needed) in enumerate(waiting) if not coming & needed), None)
            if free is not None and len(running) < jobs:
                ready, needed = waiting.pop(free)
                words = [sys.executable, "-m", "hallmark", *command, "--only", ready.key]
                with open(work / "logs" / f"{ready.key}.log", "wb") as log:
                    process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
                running[ready.key] = ready, needed, process, finished(ready)
                continue
            time.sleep(POLL)
            for key, (task, needed, process, known) in list(running.items()):
                status = process.poll()
                count = finished(task)
                advance(max(count - known, 0))
                running[key] = task, needed, process, count
                if status is not None:
                    del running[key]
                    if status:
                        failed.append(key)
                        reason = _last_line(work / "logs" / f"{key}.log")
                        click.echo(f"{command[0]}: {key} failed: {reason}", err=True)
    finally:
        for _, _, process, _ in running.values():
            process.terminate()
        for _, _, process, _ in running.values():
            process.wait()
    if failed:
        raise UserError(
            f"{command[0]}: {len(failed)} of {len(tasks)} tasks failed ({', '.join(failed[:5])}); see {work / 'logs'}; "
            "the others' cells are kept"
        )


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
