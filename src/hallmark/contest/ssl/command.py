"""``python -m hallmark ssl-contest``: measure every mark of encoders against every thief, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options, workers


@click.command()
@options.params_option("contest/ssl.yaml")
@options.out_option("docs/results/ssl")
@options.raw_option()
@options.work_option(".hallmark/ssl")
@options.jobs_option("Victims")
@options.seed_option()
@options.only_this("--group", "groups")
@options.only_this("--scheme", "schemes")
@options.only_this("--thief", "thieves")
@options.set_option()
@options.table_option()
@options.key_option("victim")
def main(  # noqa: PLR0917 - click passes options by name
    params: Path,
    out: Path,
    raw: Path,
    work: Path,
    jobs: int,
    seeds: tuple[int, ...],
    groups: tuple[str, ...],
    schemes: tuple[str, ...],
    thieves: tuple[str, ...],
    changes: tuple[str, ...],
    table: bool,
    keys: tuple[str, ...],
) -> None:
    """Measure every mark of encoders against every thief; what is measured already is kept."""
    from hallmark.contest.ssl import run  # noqa: PLC0415 - torch is slow to import
    from hallmark.contest.ssl import table as tables  # noqa: PLC0415
    from hallmark.contest.ssl.plan import Plan  # noqa: PLC0415
    from hallmark.contest.watermark import cells  # noqa: PLC0415

    plan = Plan.read(params, changes)
    victims = [v for v in plan.victims(seeds, groups, schemes, thieves) if not keys or v.key in keys]
    workers.measure(
        "ssl-contest",
        "victims",
        victims,
        wanted=lambda each: len(each.thieves),
        finished=lambda each: len(cells.finished(plan, each, out)),
        run=lambda each, advance: run.run_victim(plan, each, raw=raw, out=out, work=work, advance=advance),
        needs=lambda each: run.needs(plan, each, work),
        words={"--params": params, "--out": out, "--raw": raw, "--work": work, "--seed": seeds, "--group": groups,
               "--thief": thieves, "--set": changes},
        work=work,
        jobs=jobs,
        threads=plan.runtime.threads,
    )  # fmt: skip
    if table:
        click.echo(tables.write([out / "cells"], out, plan))
