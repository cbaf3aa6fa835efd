"""``python -m hallmark removal-contest``: measure every removal against every target, and write the tables."""

from __future__ import annotations

import click

from hallmark.contest import options, workers
from hallmark.contest.removal.plan import Plan


@click.command()
@options.contest("removal", tasks="targets")
@options.only_this("--scheme", "schemes")
@options.only_this("--target", "targets")
@options.only_this("--removal", "removals")
def main(common: options.Common, schemes: tuple[str, ...], targets: tuple[str, ...], removals: tuple[str, ...]) -> None:
    """Measure every removal against every victim and stolen copy; what is measured already is kept."""
    from hallmark.contest.removal import run  # noqa: PLC0415 - torch is slow to import

    plan, out, work = Plan.read(common.params, common.changes), common.out, common.work
    workers.measure_cells(
        common,
        "removal-contest",
        "targets",
        plan,
        plan.targets(common.seeds, schemes, targets, removals),
        run=lambda each, advance: run.run_target(plan, each, raw=common.raw, out=out, work=work, advance=advance),
        needs=lambda each: run.needs(plan, each, work),
    )
    if common.table:
        from hallmark.contest.removal import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan))
