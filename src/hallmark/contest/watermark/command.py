"""``python -m hallmark watermark-contest``: measure every scheme against every thief, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options, workers
from hallmark.contest.watermark import cells
from hallmark.contest.watermark.plan import Plan


@click.command()
@options.params_option("contest/watermark.yaml")
@options.out_option("docs/results/watermark")
@options.raw_option()
@options.work_option(".hallmark/watermark")
@options.jobs_option("Victims")
@options.seed_option()
@click.option("--group", "groups", multiple=True, help="Only this experiment; may be repeated.")
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
    """Measure every watermark scheme against every thief; what is measured already is kept."""
    from hallmark.contest.watermark import run  # noqa: PLC0415 - torch is slow to import

    plan = Plan.read(params, changes)
    victims = [v for v in plan.victims(seeds, groups, schemes, thieves) if not keys or v.key in keys]
    workers.measure(
        "watermark-contest",
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
        from hallmark.contest.watermark import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan))
