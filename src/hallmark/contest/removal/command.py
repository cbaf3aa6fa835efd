"""``python -m hallmark removal-contest``: measure every removal against every target, and write the tables."""

from __future__ import annotations

from pathlib import Path

import click

from hallmark.contest import options, workers
from hallmark.contest.removal.plan import Plan


@click.command()
@options.params_option("contest/removal.yaml")
@options.out_option("docs/results/removal")
@options.raw_option()
@options.work_option(".hallmark/removal")
@options.jobs_option("Targets")
@options.seed_option()
@options.only_this("--scheme", "schemes")
@options.only_this("--target", "targets")
@options.only_this("--removal", "removals")
@options.set_option()
@options.table_option()
@options.key_option("target")
def main(  # noqa: PLR0917 - click passes options by name
    params: Path,
    out: Path,
    raw: Path,
    work: Path,
    jobs: int,
    seeds: tuple[int, ...],
    schemes: tuple[str, ...],
    targets: tuple[str, ...],
    removals: tuple[str, ...],
    changes: tuple[str, ...],
    table: bool,
    keys: tuple[str, ...],
) -> None:
    """Measure every removal against every victim and stolen copy; what is measured already is kept."""
    from hallmark.contest.removal import run  # noqa: PLC0415 - torch is slow to import

    plan = Plan.read(params, changes)
    attacked = [t for t in plan.targets(seeds, schemes, targets, removals) if not keys or t.key in keys]
    workers.measure(
        "removal-contest",
        "targets",
        attacked,
        wanted=lambda each: len(each.removals),
        finished=lambda each: len(run.finished(plan, each, out)),
        run=lambda each, advance: run.run_target(plan, each, raw=raw, out=out, work=work, advance=advance),
        needs=lambda each: run.needs(plan, each, work),
        words={"--params": params, "--out": out, "--raw": raw, "--work": work, "--seed": seeds,
               "--removal": removals, "--set": changes},
        work=work,
        jobs=jobs,
        threads=plan.runtime.threads,
    )  # fmt: skip
    if table:
        from hallmark.contest.removal import table as tables  # noqa: PLC0415 - matplotlib is slow to import

        click.echo(tables.write([out / "cells"], out, plan))
