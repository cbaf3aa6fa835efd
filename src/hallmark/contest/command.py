"""``python -m hallmark contest``: measure every attack against every sanitizer, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import cells, options
from hallmark.contest.plan import Plan


@click.command()
@options.places(params="contest/params.yaml", out="docs/results/contest", work=".hallmark/contest", task="sets")
@options.seeds
@options.only("attack", "attacks")
@options.only("rate", "rates", "Only this poisoning rate", type=float)
@options.only("sanitizer", "sanitizers", "Only this one (and none)")
@options.changes
@click.option("--again", is_flag=True, help="Measure the chosen cells again, after a change of the code.")
@options.ending("set")
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
    from hallmark.contest.base import base_folder  # noqa: PLC0415

    plan = Plan.read(params, changes)
    sets = [s for s in plan.sets(seeds, attacks, rates, sanitizers) if not keys or s.key in keys]
    if again:
        for each in sets:
            cells.forget(each, out)
    total = sum(len(each.cells) for each in sets)
    left = [each for each in sets if len(cells.finished(plan, each, out)) < len(each.cells)]
    done = total - sum(len(each.cells) - len(cells.finished(plan, each, out)) for each in left)
    click.echo(f"contest: {len(sets):,} sets, {total:,} cells, {done:,} of them measured already")
    options.measure(
        "contest",
        left,
        total=total,
        done=done,
        one=lambda each, advance: run.run_set(plan, each, raw=raw, out=out, work=work, advance=advance),
        command=[
            *map(str, ["--params", params, "--out", out, "--raw", raw, "--work", work]),
            *options.words(("--sanitizer", sanitizers), ("--set", changes), ("--seed", seeds)),
        ],
        needs=lambda each: {base_folder(plan, each.seed, work)},
        finished=lambda each: len(cells.finished(plan, each, out)),
        work=work,
        jobs=jobs,
        threads=plan.runtime.threads,
    )
    if table:
        from hallmark.contest import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan.contest.ours, plan))
