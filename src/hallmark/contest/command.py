"""``python -m hallmark contest``: measure every attack against every sanitizer, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import cells, options, workers
from hallmark.contest.plan import Plan


@click.command()
@options.params_option("contest/params.yaml")
@options.out_option("docs/results/contest")
@options.raw_option()
@options.work_option(".hallmark/contest")
@options.jobs_option("Sets")
@options.seed_option()
@options.only_this("--attack", "attacks")
@click.option("--rate", "rates", multiple=True, type=float, help="Only this poisoning rate; may be repeated.")
@click.option("--sanitizer", "sanitizers", multiple=True, help="Only this one (and none); may be repeated.")
@options.set_option()
@click.option("--again", is_flag=True, help="Measure the chosen cells again, after a change of the code.")
@options.table_option()
@options.key_option("set")
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
    workers.measure(
        "contest",
        "sets",
        sets,
        wanted=lambda each: len(each.cells),
        finished=lambda each: len(cells.finished(plan, each, out)),
        run=lambda each, advance: run.run_set(plan, each, raw=raw, out=out, work=work, advance=advance),
        needs=lambda each: {base_folder(plan, each.seed, work)},
        words={"--params": params, "--out": out, "--raw": raw, "--work": work, "--sanitizer": sanitizers,
               "--set": changes, "--seed": seeds},
        work=work,
        jobs=jobs,
        threads=plan.runtime.threads,
    )  # fmt: skip
    if table:
        from hallmark.contest import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan.contest.ours, plan))
