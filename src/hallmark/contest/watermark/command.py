"""``python -m hallmark watermark-contest``: measure every scheme against every thief, and write the tables."""

from __future__ import annotations

import click

from hallmark.contest import options, workers
from hallmark.contest.watermark.plan import Plan


@click.command()
@options.contest("watermark", tasks="victims")
@options.only_this("--group", "groups")
@options.only_this("--scheme", "schemes")
@options.only_this("--thief", "thieves")
def main(common: options.Common, groups: tuple[str, ...], schemes: tuple[str, ...], thieves: tuple[str, ...]) -> None:
    """Measure every watermark scheme against every thief; what is measured already is kept."""
    from hallmark.contest.watermark import run  # noqa: PLC0415 - torch is slow to import

    plan, out, work = Plan.read(common.params, common.changes), common.out, common.work
    workers.measure_cells(
        common,
        "watermark-contest",
        "victims",
        plan,
        plan.victims(common.seeds, groups, schemes, thieves),
        run=lambda each, advance: run.run_victim(plan, each, raw=common.raw, out=out, work=work, advance=advance),
        needs=lambda each: run.needs(plan, each, work),
    )
    if common.table:
        from hallmark.contest.watermark import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan))
