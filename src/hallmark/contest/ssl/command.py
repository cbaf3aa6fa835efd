"""``python -m hallmark ssl-contest``: measure every mark of encoders against every thief, and write the tables."""

from __future__ import annotations

import click

from hallmark.contest import options, workers


@click.command()
@options.contest("ssl", tasks="victims", table="cells, contest.csv, contest.md")
@options.only_this("--group", "groups")
@options.only_this("--scheme", "schemes")
@options.only_this("--thief", "thieves")
def main(common: options.Common, groups: tuple[str, ...], schemes: tuple[str, ...], thieves: tuple[str, ...]) -> None:
    """Measure every mark of encoders against every thief; what is measured already is kept."""
    from hallmark.contest.ssl import run  # noqa: PLC0415 - torch is slow to import
    from hallmark.contest.ssl import table as tables  # noqa: PLC0415
    from hallmark.contest.ssl.plan import Plan  # noqa: PLC0415

    plan, out, work = Plan.read(common.params, common.changes), common.out, common.work
    workers.measure_cells(
        common,
        "ssl-contest",
        "victims",
        plan,
        plan.victims(common.seeds, groups, schemes, thieves),
        run=lambda each, advance: run.run_victim(plan, each, raw=common.raw, out=out, work=work, advance=advance),
        needs=lambda each: run.needs(plan, each, work),
    )
    if common.table:
        click.echo(tables.write([out / "cells"], out, plan))
