"""``python -m hallmark contest``: measure every attack against every sanitizer, and write the tables."""

from __future__ import annotations

import click

from hallmark.contest import options, workers
from hallmark.contest.purification import cells
from hallmark.contest.purification.plan import Plan


@click.command()
@options.contest("params", tasks="sets")
@options.only_this("--attack", "attacks")
@click.option("--rate", "rates", multiple=True, type=float, help="Only this poisoning rate; may be repeated.")
@click.option("--sanitizer", "sanitizers", multiple=True, help="Only this one (and none); may be repeated.")
@click.option("--again", is_flag=True, help="Measure the chosen cells again, after a change of the code.")
def main(
    common: options.Common,
    attacks: tuple[str, ...],
    rates: tuple[float, ...],
    sanitizers: tuple[str, ...],
    again: bool,
) -> None:
    """Measure every attack against every sanitizer and repair; what is measured already is kept."""
    from hallmark.contest.purification import run  # noqa: PLC0415 - torch and diffusers are slow to import
    from hallmark.contest.purification.base import base_folder  # noqa: PLC0415

    plan, out, work = Plan.read(common.params, common.changes), common.out, common.work
    sets = plan.sets(common.seeds, attacks, rates, sanitizers)
    if again:
        for each in common.chosen(sets):
            cells.forget(each, out)
    workers.measure(
        common,
        "contest",
        "sets",
        sets,
        wanted=lambda each: len(each.cells),
        finished=lambda each: len(cells.finished(plan, each, out)),
        run=lambda each, advance: run.run_set(plan, each, raw=common.raw, out=out, work=work, advance=advance),
        needs=lambda each: {base_folder(plan, each.seed, work)},
        threads=plan.runtime.threads,
    )
    if common.table:
        from hallmark.contest.purification import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan))
