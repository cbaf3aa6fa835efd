"""``python -m hallmark contest``: measure every attack against every sanitizer, and write the tables."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from hallmark.contest import cells
from hallmark.contest.plan import Plan, Set
from hallmark.errors import UserError
from hallmark.progress import Advance, progress

POLL = 0.5
"""Seconds between two looks at the workers."""


@click.command()
@click.option(
    "--params",
    default="contest/params.yaml",
    show_default=True,
    help="The contest's parameter file.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--out",
    default="docs/results/contest",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write: cells, contest.csv, contest.md, pictures.",
)
@click.option(
    "--raw",
    default="data/raw",
    show_default=True,
    help="Folder of downloaded data sets.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--work",
    default=".hallmark/contest",
    show_default=True,
    help="Folder of what can be made again.",
    type=click.Path(path_type=Path),
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Sets worked on at once, each in a process.",
    type=click.IntRange(1, 256),
)
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), help="In place of the plan's; may be repeated.")
@click.option("--attack", "attacks", multiple=True, help="Only this one, by its name in the plan; may be repeated.")
@click.option("--rate", "rates", multiple=True, type=float, help="Only this poisoning rate; may be repeated.")
@click.option("--sanitizer", "sanitizers", multiple=True, help="Only this one (and none); may be repeated.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another parameter; may be repeated.")
@click.option("--again", is_flag=True, help="Measure the chosen cells again, after a change of the code.")
@click.option("--table/--no-table", default=True, show_default=True, help="Write the tables and pictures at the end.")
@click.option("--only", "keys", multiple=True, hidden=True, help="Only the set of this key: what a worker gets.")
def main(  # noqa: PLR0917 - click passes options by name
    params: Path,
    out: Path,
    raw: Path,
    work: Path,
    jobs: int,
    seeds: tuple[int, ...],
    attacks: tuple[str, ...],
    rates: tuple[float, ...],
    sanitizers: tuple[str, ...],
    changes: tuple[str, ...],
    again: bool,
    table: bool,
    keys: tuple[str, ...],
) -> None:
    """Measure every attack against every sanitizer and repair; what is measured already is kept."""
    from hallmark.contest import run  # noqa: PLC0415 - torch and diffusers are slow to import

    plan = Plan.read(params, changes)
    sets = [s for s in plan.sets(seeds, attacks, rates, sanitizers) if not keys or s.key in keys]
    if again:
        for each in sets:
            cells.forget(each, out)
    total = sum(len(each.cells) for each in sets)
    left = [each for each in sets if len(cells.finished(plan, each, out)) < len(each.cells)]
    done = total - sum(len(each.cells) - len(cells.finished(plan, each, out)) for each in left)
    click.echo(f"contest: {len(sets):,} sets, {total:,} cells, {done:,} of them measured already")
    with progress(total, "contest", "cell") as advance:
        advance(done)
        if jobs == 1 or len(left) < 2:
            for each in left:
                run.run_set(plan, each, raw=raw, out=out, work=work, advance=advance)
        else:
            options = ["--params", params, "--out", out, "--raw", raw, "--work", work]
            options += [word for name in sanitizers for word in ("--sanitizer", name)]
            options += [word for change in changes for word in ("--set", change)]
            options += [word for seed in seeds for word in ("--seed", str(seed))]
            _share(plan, left, [str(word) for word in options], out=out, work=work, jobs=jobs, advance=advance)
    if table:
        from hallmark.contest import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan.contest.ours, plan))


def _share(
    plan: Plan, sets: Sequence[Set], options: Sequence[str], *, out: Path, work: Path, jobs: int, advance: Advance
) -> None:
    """Give the sets to processes of this command, one set each, their output to ``WORK/logs``.

    The first set of a seed makes what the seed's sets share: the others wait for it, and sets of other seeds go
    first meanwhile.

    Raises:
        UserError: a worker failed, after the others' work is done.
    """
    from hallmark.contest.base import base_folder  # noqa: PLC0415 - see main

    waiting, failed = list(sets), []
    running: dict[str, tuple[Set, subprocess.Popen[bytes], int]] = {}
    (work / "logs").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(plan.runtime.threads)}
    try:
        while waiting or running:
            warming = {s.seed for s, _, _ in running.values() if not base_folder(plan, s.seed, work).is_dir()}
            ready = next((s for s in waiting if s.seed not in warming), None)
            if ready is not None and len(running) < jobs:
                waiting.remove(ready)
                command = [sys.executable, "-m", "hallmark", "contest", *options, "--only", ready.key, "--no-table"]
                with open(work / "logs" / f"{ready.key}.log", "wb") as log:
                    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                running[ready.key] = ready, process, len(cells.finished(plan, ready, out))
                continue
            time.sleep(POLL)
            for key, (each, process, known) in list(running.items()):
                status = process.poll()
                count = len(cells.finished(plan, each, out))
                advance(max(count - known, 0))
                running[key] = each, process, count
                if status is not None:
                    del running[key]
                    if status:
                        failed.append(key)
                        click.echo(f"contest: {key} failed: {_last_line(work / 'logs' / f'{key}.log')}", err=True)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()
    if failed:
        raise UserError(
            f"contest: {len(failed)} of {len(sets)} sets failed ({', '.join(failed[:5])}); see {work / 'logs'}; "
            "the others' cells are kept"
        )


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
